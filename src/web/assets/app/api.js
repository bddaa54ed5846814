// Talks to the server: problems become errors that say what to do, and pages keep what they have when an answer fails.
import { useEffect, useRef, useState } from './lib.js';
import { session, skewMs } from './state.js';
import { t } from './text.js';

const BASE = '/api/v1';
/** Answers kept so that going back shows something at once. */
const KEPT_MAX = 40;
const kept = new Map();

export class ApiError extends Error {
  constructor(status, problem, requestId, retryAfterSec) {
    super(problem.detail || problem.title || t.error.status(status));
    this.status = status;
    this.code = problem.code || 'unknown';
    this.requestId = requestId || problem.request_id || null;
    this.retryAfterSec = retryAfterSec;
  }
}

const noteClock = (response) => {
  const date = Date.parse(response.headers.get('date') || '');
  // The header has whole seconds: less than two of difference is none.
  if (date) skewMs.value = Math.abs(date - Date.now()) < 2000 ? 0 : date - Date.now();
};

export async function api(path, { method = 'GET', body, signal, background = false } = {}) {
  const headers = { accept: 'application/json' };
  // What a page asks by itself does not keep a session alive.
  if (background) headers['x-background'] = '1';
  if (method !== 'GET') {
    headers['content-type'] = 'application/json';
    if (session.peek()?.csrf_token) headers['x-csrf-token'] = session.peek().csrf_token;
  }
  let response;
  try {
    response = await fetch(BASE + path, {
      method, headers, signal, credentials: 'same-origin', cache: 'no-store',
      body: method === 'GET' ? undefined : JSON.stringify(body ?? {}),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, { detail: t.error.offline, code: 'offline' });
  }
  noteClock(response);
  const requestId = response.headers.get('x-request-id');
  if (response.ok) {
    if (response.status === 204) return null;
    const text = await response.text();
    try { return text ? JSON.parse(text) : null; } catch { throw new ApiError(response.status, { detail: t.error.garbled, code: 'garbled' }, requestId); }
  }
  let problem = {};
  try { problem = await response.json(); } catch { /* a proxy's page, not ours */ }
  const retryAfter = Number(response.headers.get('retry-after')) || null;
  if (response.status === 401 && !path.startsWith('/auth/') && session.peek()) session.value = null;
  throw new ApiError(response.status, problem, requestId, retryAfter);
}

/** `/a/{}/b` with encoded parts, and a query. */
export function url(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}
export const seg = encodeURIComponent;
export const apiHref = (path) => BASE + path;

/**
 * What `path` answers, again every `everyMs`. Keeps the last answer while a new one is under way or fails:
 * `{data, error, loading, failedSinceMs, reload}`.
 */
export function useLoad(path, { everyMs = 0, fresh = false } = {}) {
  const [state, setState] = useState(() => ({ path, data: fresh ? undefined : kept.get(path), error: null, loading: true, failedSinceMs: null }));
  const [turn, setTurn] = useState(0);
  const current = useRef(path);
  current.current = path;
  useEffect(() => {
    if (!path) return undefined;
    const abort = new AbortController();
    let timer = null;
    let ended = false;
    const ask = async (background) => {
      setState((s) => (s.path === path ? { ...s, loading: true } : { path, data: fresh ? undefined : kept.get(path), error: null, loading: true, failedSinceMs: null }));
      try {
        const data = await api(path, { signal: abort.signal, background });
        if (ended) return;
        kept.delete(path);
        kept.set(path, data);
        if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value);
        setState({ path, data, error: null, loading: false, failedSinceMs: null });
      } catch (error) {
        if (ended || error.name === 'AbortError') return;
        setState((s) => ({ ...s, path, error, loading: false, failedSinceMs: s.failedSinceMs ?? Date.now() + skewMs.peek() }));
      }
      if (everyMs && !ended) timer = setTimeout(again, everyMs);
    };
    const again = () => {
      if (document.hidden) timer = setTimeout(again, 1000);
      else ask(true);
    };
    ask(false);
    return () => { ended = true; clearTimeout(timer); abort.abort(); };
  }, [path, everyMs, turn]);
  const shown = state.path === path ? state : { path, data: kept.get(path), error: null, loading: true, failedSinceMs: null };
  return { ...shown, reload: () => setTurn((n) => n + 1) };
}

/** After a change: what is kept may be wrong. */
export const forget = () => kept.clear();

/** Runs a change once at a time: `[run, {busy, error}]`. */
export function useAction(action) {
  const [state, setState] = useState({ busy: false, error: null });
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const run = async (...args) => {
    setState({ busy: true, error: null });
    try {
      const result = await action(...args);
      if (alive.current) setState({ busy: false, error: null });
      return result;
    } catch (error) {
      if (alive.current) setState({ busy: false, error });
      return undefined;
    }
  };
  return [run, state, () => setState({ busy: false, error: null })];
}
