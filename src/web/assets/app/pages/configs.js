// Configs with their sources; changes are collected, shown as a difference, and sent together.
import { html, useState } from '../lib.js';
import { useLoad, seg, api, forget, useAction } from '../api.js';
import { useQuery } from '../router.js';
import { Loaded, Search, Badge, WriteButton, Icon, Problem, Command, LoadBanners, Empty, Segmented } from '../ui/parts.js';
import { Dialog } from '../ui/dialog.js';
import { toast, canWrite } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

const OWN = /^DYNAMIC_/;

export function ConfigTable({ items, edits, onEdit, own = (c) => OWN.test(c.source ?? '') }) {
  const [q, setQ] = useQuery({ find: '', show: 'all' });
  const shown = items.filter((c) => (q.show === 'all' || own(c) || edits?.[c.name] !== undefined) && (!q.find || c.name.includes(q.find.trim().toLowerCase())));
  return html`<div class="toolbar"><${Search} value=${q.find} placeholder=${t.configs.search} onChange=${(find) => setQ({ find }, { replace: true })} />
      <${Segmented} label=${t.configs.show} value=${q.show} onChange=${(show) => setQ({ show }, { replace: true })} options=${[['all', t.configs.all], ['own', t.configs.own]]} /></div>
    ${shown.length === 0 ? html`<${Empty} icon="settings" title=${t.configs.none} />` : html`<ul class="configs">${shown.map((c) => html`<${Row} key=${c.name} c=${c} edit=${edits?.[c.name]} onEdit=${onEdit} own=${own(c)} />`)}</ul>`}`;
}

function Row({ c, edit, onEdit, own }) {
  const [open, setOpen] = useState(false);
  const editable = onEdit && !c.read_only && canWrite();
  const editing = edit !== undefined;
  const hint = f.configHint(c.name, editing && edit !== null ? edit : c.value);
  return html`<li class=${editing ? 'changed' : ''}><div class="config-line"><div class="config-name"><button type="button" class="link-button mono" aria-expanded=${open ? 'true' : 'false'} onClick=${() => setOpen(!open)}>${c.name}</button>
      <${Badge} level=${own ? 'accent' : ''}>${t.configs.sources[c.source] ?? c.source}<//>${c.read_only && html`<${Badge}>${t.configs.readOnly}<//>`}</div>
    <div class="config-value">${editing && edit !== null ? html`<input class="input mono" aria-label=${c.name} value=${edit} onInput=${(e) => onEdit(c.name, e.target.value)} />`
      : editing ? html`<span class="muted">${t.configs.backToDefault}</span>` : html`<code class="break">${c.sensitive ? t.configs.hidden : c.value === null || c.value === '' ? html`<span class="dim">${t.configs.empty}</span>` : c.value}</code>`}${hint && html`<span class="dim nowrap">${hint}</span>`}</div>
    <div class="config-acts">${editable && !editing && html`<button type="button" class="btn s ghost" aria-label=${t.configs.editName(c.name)} onClick=${() => onEdit(c.name, c.value ?? '')}><${Icon} name="edit" size=${14} />${t.action.edit}</button>`}
      ${editable && !editing && own && html`<button type="button" class="btn s ghost" aria-label=${t.configs.resetName(c.name)} onClick=${() => onEdit(c.name, null)}>${t.configs.reset}</button>`}
      ${editing && html`<button type="button" class="btn s ghost" onClick=${() => onEdit(c.name, undefined)}>${t.action.undo}</button>`}</div></div>
    ${open && html`<div class="config-more">${c.documentation ? html`<p class="note">${c.documentation}</p>` : html`<p class="dim">${t.configs.noDocs}</p>`}
      <dl class="kv">${c.type && html`<dt>${t.configs.type}</dt><dd>${c.type.toLowerCase()}</dd>`}${typeof c.default === 'string' && html`<dt>${t.configs.defaultValue}</dt><dd class="mono">${c.default || t.configs.empty}</dd>`}${(c.synonyms ?? []).map((s, i) => html`<dt key=${i}>${t.configs.sources[s.source] ?? s.source}</dt><dd class="mono">${s.name} = ${s.value ?? t.configs.hidden}</dd>`)}</dl></div>`}</li>`;
}

export function Configs({ name }) {
  const load = useLoad(`/topics/${seg(name)}/configs`);
  const [edits, setEdits] = useState({});
  const [preview, setPreview] = useState(null);
  const onEdit = (key, value) => setEdits((e) => { const next = { ...e }; if (value === undefined) delete next[key]; else next[key] = value; return next; });
  const before = Object.fromEntries((load.data?.items ?? []).map((c) => [c.name, c.value]));
  const changed = Object.entries(edits).filter(([key, value]) => value === null || value !== (before[key] ?? ''));
  const body = (validate) => ({ set: Object.fromEntries(changed.filter(([, v]) => v !== null)), unset: changed.filter(([, v]) => v === null).map(([k]) => k), validate_only: validate });
  const [run, state, clear] = useAction(async (validate) => {
    const answer = await api(`/topics/${seg(name)}/configs`, { method: 'PATCH', body: body(validate) });
    if (validate) { setPreview(answer); return; }
    forget(); toast(t.configs.saved(name)); setEdits({}); setPreview(null); load.reload();
  });
  return html`<${LoadBanners} load=${load} /><${Loaded} load=${load}>${(data) => html`<section class="card"><${ConfigTable} items=${data.items} edits=${edits} onEdit=${onEdit} /></section>
    ${changed.length > 0 && html`<div class="savebar" role="status"><span>${t.configs.changes(changed.length)}</span><div class="row"><button type="button" class="btn" onClick=${() => { setEdits({}); clear(); }}>${t.configs.discard}</button><${WriteButton} class="primary" disabled=${state.busy} onClick=${() => run(true)}>${state.busy ? t.working : t.configs.review}<//></div></div>`}
    ${!preview && html`<${Problem} error=${state.error} />`}
    ${preview && html`<${Dialog} title=${t.configs.reviewTitle(name)} onClose=${() => { setPreview(null); clear(); }} wide onSubmit=${() => !state.busy && run(false)} foot=${html`<button type="button" class="btn" onClick=${() => setPreview(null)}>${t.action.cancel}</button><button class="btn primary" disabled=${state.busy}>${state.busy ? t.working : t.configs.apply}</button>`}>
      <div class="diff">${preview.diff.map((d) => html`<div key=${d.name}><strong>${d.name}</strong><div><del aria-label=${t.configs.before}>${d.before ?? t.configs.defaultWord}</del> → <ins aria-label=${t.configs.after}>${d.after ?? t.configs.defaultWord}</ins></div></div>`)}</div>
      <${Command} text=${preview.command} /><${Problem} error=${state.error} /><//>`}`}<//>`;
}
