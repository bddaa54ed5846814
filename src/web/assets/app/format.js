// Numbers and times as people read them. 64-bit numbers come as strings and stay exact: BigInt, never a float.
import { timeMode } from './state.js';

const isUnknown = (v) => v === null || v === undefined || v === '';
export const unknown = isUnknown;

/** A whole number from a string or number; null if it is none. */
export function big(v) {
  if (isUnknown(v)) return null;
  try { return BigInt(typeof v === 'number' ? Math.round(v) : v); } catch { return null; }
}

const group = (digits) => digits.replace(/\B(?=(\d{3})+(?!\d))/g, ',');

export function int(v) {
  const n = big(v);
  if (n === null) return null;
  return n < 0n ? `-${group((-n).toString())}` : group(n.toString());
}

/** 3 significant digits or so, for a float. */
export function short(n) {
  const a = Math.abs(n);
  if (a === 0) return '0';
  if (a >= 100) return group(n.toFixed(0));
  if (a >= 10) return n.toFixed(1).replace(/\.0$/, '');
  if (a >= 0.01) return n.toFixed(2).replace(/\.?0+$/, '');
  return n.toPrecision(2);
}

function scaled(v, steps, base) {
  const n = Number(v);
  let value = n;
  let i = 0;
  while (Math.abs(value) >= (i === 0 ? base : base * 0.9995) && i < steps.length - 1) { value /= base; i += 1; }
  return [short(value), steps[i]];
}

/** [number, unit] */
export const bytesParts = (v) => scaled(v, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'], 1024);
export const bytes = (v) => (isUnknown(v) ? null : bytesParts(v).join(' '));
export const compactParts = (v) => scaled(v, ['', 'k', 'M', 'G', 'T', 'P', 'E'], 1000);
export const compact = (v) => (isUnknown(v) ? null : compactParts(v).join(''));
export const byteRate = (v) => (isUnknown(v) ? null : `${bytes(v)}/s`);
export const rate = (v) => (isUnknown(v) ? null : `${short(Number(v))}/s`);
export const percent = (v) => (isUnknown(v) ? null : `${short(Number(v) * 100)} %`);
export const millis = (v) => (isUnknown(v) ? null : Number(v) >= 10000 ? `${short(Number(v) / 1000)} s` : `${short(Number(v))} ms`);

export function dollars(v) {
  if (isUnknown(v)) return null;
  const n = Number(v);
  if (n !== 0 && Math.abs(n) < 0.005) return n < 0 ? '−<$0.01' : '<$0.01';
  const [whole, cents] = Math.abs(n).toFixed(2).split('.');
  return `${n < 0 ? '-' : ''}$${group(whole)}.${cents}`;
}

export function duration(ms) {
  if (isUnknown(ms)) return null;
  const n = Math.max(0, Number(ms));
  if (n < 1000) return `${Math.round(n)} ms`;
  const s = Math.floor(n / 1000);
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 && m < 10 ? `${m} min ${s % 60} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 && d < 14 ? `${d} d ${h % 24} h` : `${d} d`;
}

const two = (n) => String(n).padStart(2, '0');

/** `2026-11-26 14:36:44.123`, in UTC or local as chosen. */
export function dateTime(ms, { millis: withMillis = false, seconds = true, mode = timeMode.value } = {}) {
  if (isUnknown(ms)) return null;
  const d = new Date(Number(ms));
  if (Number.isNaN(d.getTime())) return null;
  const u = mode === 'utc';
  const date = `${u ? d.getUTCFullYear() : d.getFullYear()}-${two((u ? d.getUTCMonth() : d.getMonth()) + 1)}-${two(u ? d.getUTCDate() : d.getDate())}`;
  let time = `${two(u ? d.getUTCHours() : d.getHours())}:${two(u ? d.getUTCMinutes() : d.getMinutes())}`;
  if (seconds || withMillis) time += `:${two(u ? d.getUTCSeconds() : d.getSeconds())}`;
  if (withMillis) time += `.${String(u ? d.getUTCMilliseconds() : d.getMilliseconds()).padStart(3, '0')}`;
  return `${date} ${time}`;
}

export function clockTime(ms, options) { return dateTime(ms, options)?.slice(11) ?? null; }

export function zone(ms = Date.now(), mode = timeMode.value) {
  if (mode === 'utc') return 'UTC';
  const minutes = -new Date(ms).getTimezoneOffset();
  return `UTC${minutes < 0 ? '-' : '+'}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}

/** Both forms, for a tooltip. */
export function exact(ms) {
  if (isUnknown(ms)) return '';
  const d = new Date(Number(ms));
  if (Number.isNaN(d.getTime())) return '';
  return `${d.toISOString()} · ${dateTime(ms, { millis: true, mode: 'local' })} ${zone(Number(ms), 'local')} · ${ms} ms`;
}

/** The value of an `<input type=datetime-local step=1>` as Unix ms in the chosen mode, and back. */
export function fromInput(text) {
  if (!text) return null;
  const ms = Date.parse(timeMode.value === 'utc' ? `${text}Z` : text);
  return Number.isNaN(ms) ? null : ms;
}
export const toInput = (ms) => (isUnknown(ms) ? '' : dateTime(ms).replace(' ', 'T'));

/** Milliseconds of a config, with words beside: `604800000` → `7 d`. */
export function configHint(name, value) {
  if (isUnknown(value) || !/^-?\d+$/.test(value)) return null;
  if (value === '-1') return null;
  if (/(^|\.)ms$/.test(name) && Number(value) >= 1000) return Number(value) > 3.2e14 ? null : duration(value);
  if (/bytes$/.test(name) && Number(value) >= 1024) return Number(value) > 1e18 ? null : bytes(value);
  return null;
}

/** Messages of programs begin in lower case; between sentences of people they should not. Names such as etcd stay. */
export const sentence = (text) => (/^(etcd|kafka|kafscale|s3)\b/.test(text) || !/^[a-z]+\b[^.=_(]/.test(text) ? text : text[0].toUpperCase() + text.slice(1));

/** One-line form of a payload for lists. */
export const oneLine = (text, max = 240) => {
  const line = text.slice(0, max + 1).replace(/[\r\n\t]+/g, ' ');
  return line.length > max ? `${line.slice(0, max)}…` : line;
};

/** JSON indented token by token: numbers, duplicates and order stay as they are. Null if it is not JSON. */
export function indentJson(text, max = 400000) {
  if (text.length > max) return null;
  try { JSON.parse(text); } catch { return null; }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) || [];
  const out = [];
  let depth = 0;
  const line = () => out.push(['', `\n${'  '.repeat(depth)}`]);
  tokens.forEach((token, i) => {
    const next = tokens[i + 1];
    if (token === '{' || token === '[') {
      out.push(['', token]);
      if (next === '}' || next === ']') return;
      depth += 1; line();
    } else if (token === '}' || token === ']') {
      const before = tokens[i - 1];
      if (before !== '{' && before !== '[') { depth -= 1; line(); }
      out.push(['', token]);
    } else if (token === ',') { out.push(['', ',']); line(); }
    else if (token === ':') out.push(['', ': ']);
    else if (token[0] === '"') out.push([next === ':' ? 'j-key' : 'j-str', token]);
    else out.push([/^(true|false|null)$/.test(token) ? 'j-word' : 'j-num', token]);
  });
  return out;
}
