// What all pages share: who is signed in, theme, how times are shown, the server's clock.
import { signal, effect } from './lib.js';

const stored = (key, fallback) => {
  try { return localStorage.getItem(`kafscale.${key}`) ?? fallback; } catch { return fallback; }
};
let blocked = false;
try { localStorage.getItem('kafscale.session'); } catch { blocked = true; }
const store = (key, value) => {
  try { localStorage.setItem(`kafscale.${key}`, value); } catch { /* private window: it lasts as long as the page */ }
};

/** undefined: not asked yet; null: nobody; else `{username, role, csrf_token, …}`. */
export const session = signal(undefined);
/** False only if nobody has signed in with this browser, or the last one has signed out. */
export const maybeSignedIn = () => stored('session', blocked ? 'maybe' : 'no') !== 'no';
effect(() => { if (session.value !== undefined) store('session', session.value ? 'yes' : 'no'); });
export const canWrite = () => session.value?.role === 'admin';

/** auto, light, dark */
export const themeChoice = signal(stored('theme', 'auto'));
export const theme = signal(document.documentElement.dataset.theme);
const systemDark = matchMedia('(prefers-color-scheme: dark)');
const applyTheme = () => {
  const dark = themeChoice.value === 'dark' || (themeChoice.value === 'auto' && systemDark.matches);
  theme.value = dark ? 'dark' : 'light';
  document.documentElement.dataset.theme = theme.value;
};
systemDark.addEventListener('change', applyTheme);
effect(() => { store('theme', themeChoice.value); applyTheme(); });

/** utc, local */
export const timeMode = signal(stored('time', 'local'));
effect(() => store('time', timeMode.value));

/** Server's clock minus ours, ms: ages are right even where the browser's clock is not. */
export const skewMs = signal(0);
/** Server's time, once a second. */
export const nowMs = signal(Date.now());
export const serverNow = () => Date.now() + skewMs.peek();
setInterval(() => { if (!document.hidden) nowMs.value = serverNow(); }, 1000);

/** Notices at the lower edge: {id, kind: 'ok'|'crit', text} */
export const toasts = signal([]);
let toastId = 0;
export const dropToast = (id) => { toasts.value = toasts.value.filter((t) => t.id !== id); };
export function toast(text, kind = 'ok') {
  const id = ++toastId;
  toasts.value = [...toasts.value.slice(-3), { id, kind, text }];
  setTimeout(() => dropToast(id), kind === 'crit' ? 15000 : 6000);
}
