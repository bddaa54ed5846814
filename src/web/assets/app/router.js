// The address is the state: paths name things, the query says how they are shown.
import { signal } from './lib.js';

const read = () => ({ path: location.pathname, query: new URLSearchParams(location.search) });
export const loc = signal(read());

addEventListener('popstate', () => { loc.value = read(); });

export function navigate(to, { replace = false } = {}) {
  if (to === location.pathname + location.search) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  const before = loc.peek().path;
  loc.value = read();
  if (before !== loc.value.path) scrollTo(0, 0);
}

/** Only a path of this site; anything else, such as `//elsewhere`, becomes the start page. */
export function ownPath(to) {
  if (typeof to !== 'string' || !to.startsWith('/') || /^\/[\/\\]/.test(to)) return '/';
  try {
    const url = new URL(to, location.origin);
    return url.origin === location.origin ? url.pathname + url.search : '/';
  } catch { return '/'; }
}

/** `path` with these parameters; empty ones and those that equal their default are left out. */
export function withQuery(path, parameters, defaults = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value === undefined || value === null || value === '' || value === false) continue;
    if (String(value) === String(defaults[key] ?? '')) continue;
    query.set(key, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Parameters of the address with defaults, and a function that changes some of them. */
export function useQuery(defaults = {}) {
  const { path, query } = loc.value;
  const values = { ...defaults };
  for (const [key, value] of query) values[key] = value;
  const set = (changes, options) => navigate(withQuery(path, { ...values, ...changes }, defaults), options);
  return [values, set];
}

/** Links inside the application are followed without a new page. */
document.addEventListener('click', (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest?.('a[href]');
  if (!link || link.target || link.hasAttribute('download')) return;
  const href = link.getAttribute('href');
  if (!href.startsWith('/') || /^\/(api|ui\/api|assets)\//.test(href)) return;
  event.preventDefault();
  navigate(href);
});

export const topicPath = (name, tab = '') => `/topics/${encodeURIComponent(name)}${tab ? `/${tab}` : ''}`;
export const groupPath = (id) => `/groups/${encodeURIComponent(id)}`;
