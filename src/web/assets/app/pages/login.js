// Sign-in: says what is wrong and how long to wait, and never whether a user exists.
import { html, useEffect, useRef, useState } from '../lib.js';
import { api, forget, useLoad } from '../api.js';
import { session, nowMs, serverNow } from '../state.js';
import { Banner, Icon, Problem } from '../ui/parts.js';
import { Logo } from '../ui/icons.js';
import { t } from '../text.js';
import * as f from '../format.js';

export function Login() {
  const config = useLoad('/auth/config', { everyMs: 15000, fresh: true });
  const [username, setUsername] = useState('');
  const [password, setPassword] = useState('');
  const [shown, setShown] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const [lockedUntil, setLockedUntil] = useState(0);
  const field = useRef(null);
  useEffect(() => { document.title = `${t.login.title} · Kafscale`; field.current?.focus(); }, []);
  const left = Math.max(0, Math.ceil((lockedUntil - nowMs.value) / 1000));
  const unset = config.data && !config.data.configured;
  const submit = async (event) => {
    event.preventDefault();
    if (busy || left > 0) return;
    setBusy(true);
    setError(null);
    try {
      const who = await api('/auth/login', { method: 'POST', body: { username, password } });
      setPassword('');
      forget();
      session.value = who;
    } catch (problem) {
      if (problem.status === 429) setLockedUntil(serverNow() + (problem.retryAfterSec ?? 30) * 1000);
      setError(problem);
      setBusy(false);
      field.current?.form?.querySelector('input[name=password]')?.focus();
    }
  };
  return html`<main class="login"><div class="login-box">
    <div class="brand"><span class="mark"><${Logo} /></span>${t.product}</div>
    <h1>${t.login.title}</h1>
    ${unset && html`<${Banner} level="warn" title=${t.login.unset} live>${config.data.message ?? t.login.unsetHelp}<//>`}
    ${config.error && html`<${Problem} error=${config.error} title=${t.login.unreachable} retry=${config.reload} />`}
    ${error?.status === 429 && left > 0 && html`<${Banner} level="crit" title=${t.login.locked} live><span aria-live="off">${t.login.lockedFor(f.duration(left * 1000))}</span><//>`}
    ${error && error.status !== 429 && html`<${Banner} level="crit" title=${error.status === 401 ? t.login.wrong : t.error.title(error.code)} live>${error.status === 401 ? t.login.wrongHelp : f.sentence(error.message)}<//>`}
    <form onSubmit=${submit} class="stack-s">
      <div class="field"><label for="username">${t.login.username}</label><input class="input" ref=${field} id="username" name="username" autocomplete="username" autocapitalize="none" spellcheck=${false} required value=${username} onInput=${(e) => setUsername(e.target.value)} /></div>
      <div class="field"><label for="password">${t.login.password}</label><div class="with-button"><input class="input" id="password" name="password" type=${shown ? 'text' : 'password'} autocomplete="current-password" required value=${password} onInput=${(e) => setPassword(e.target.value)} />
        <button type="button" class="btn" aria-pressed=${shown ? 'true' : 'false'} onClick=${() => setShown(!shown)}>${shown ? t.login.hide : t.login.show}</button></div></div>
      <button class="btn primary wide" disabled=${busy || unset || left > 0}>${busy ? t.working : t.login.submit}</button>
    </form>
    <p class="dim tiny row"><${Icon} name="info" size=${14} />${t.login.note}</p>
  </div></main>`;
}
