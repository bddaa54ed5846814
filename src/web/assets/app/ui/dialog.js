// Dialogs on the browser's own <dialog>: focus is kept inside, Escape closes, and focus goes back to where it was.
import { html, useEffect, useRef, useState } from '../lib.js';
import { Icon, Problem, Command, TextField } from './parts.js';
import { t } from '../text.js';

export function Dialog({ title, onClose, children, foot, wide = false, onSubmit }) {
  const ref = useRef(null);
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog.showModal();
    dialog.querySelector('[autofocus], .body input:not([type=hidden]), .body select, .body textarea')?.focus();
    return () => { if (dialog.open) dialog.close(); before?.focus?.(); };
  }, []);
  const submit = (event) => { event.preventDefault(); onSubmit?.(); };
  const inner = html`<div class="body">${children}</div>${foot && html`<div class="foot">${foot}</div>`}`;
  return html`<dialog ref=${ref} class=${wide ? 'wide' : ''} aria-label=${title} onCancel=${(e) => { e.preventDefault(); onClose(); }}
      onClick=${(e) => { if (e.target === ref.current) onClose(); }}>
    <div class="head"><h2>${title}</h2><button type="button" class="btn ghost icon" onClick=${onClose} aria-label=${t.action.close}><${Icon} name="close" /></button></div>
    ${onSubmit ? html`<form class="dialog-form" onSubmit=${submit}>${inner}</form>` : inner}</dialog>`;
}

/** What will happen, the command that does the same, and the name to type. `run` gets what was typed. */
export function ConfirmDialog({ title, name, danger = true, verb, children, command, onClose, run, state }) {
  const [typed, setTyped] = useState('');
  const match = typed === name;
  return html`<${Dialog} title=${title} onClose=${onClose} onSubmit=${() => { if (match && !state.busy) run(typed); }} foot=${html`
      <button type="button" class="btn" onClick=${onClose}>${t.action.cancel}</button>
      <button class=${`btn solid ${danger ? 'danger' : 'primary'}`} disabled=${!match || state.busy}>${state.busy ? t.working : verb}</button>`}>
    ${children}<${Command} text=${command} />
    <${TextField} label=${t.confirm.label(name)} value=${typed} onInput=${(e) => setTyped(e.target.value)} autofocus data-confirm />
    <${Problem} error=${state.error} /><//>`;
}
