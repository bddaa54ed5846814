// The message browser: newest, oldest, an offset or a time; text search, filter expressions, decoders, live tail, export, produce.
import { html, useEffect, useMemo, useRef, useState } from '../lib.js';
import { api, apiHref, seg, url, useAction, useLoad } from '../api.js';
import { useQuery } from '../router.js';
import { Banner, Empty, Icon, Problem, Partial, Search, Segmented, Badge, WriteButton, Skeleton, Time, Unknown, Bytes, copyText, TextField, SelectField, AreaField } from '../ui/parts.js';
import { Dialog } from '../ui/dialog.js';
import { toast, serverNow } from '../state.js';
import { t } from '../text.js';
import * as f from '../format.js';

const DEFAULTS = { partition: 'all', from: 'newest', offset: '', time: '', q: '', filter: '', limit: '50', key: 'auto', value: 'auto', kschema: '', vschema: '', live: '', open: '' };
const ROWS_MAX = 1000;
const TAIL_ROWS_MAX = 500;
const DECODERS = ['auto', 'text', 'json', 'hex', 'avro', 'protobuf', 'msgpack', 'cbor'];
const id = (m) => `${m.partition}:${m.offset}`;

export function Messages({ name, topic }) {
  const [q, setQ] = useQuery(DEFAULTS);
  const decoders = useLoad('/decoders');
  const base = `/topics/${seg(name)}`;
  const parameters = { partition: q.partition, from: q.from, offset: q.from === 'offset' ? q.offset : '', time_ms: q.from === 'time' ? q.time : '', q: q.q, filter: q.filter, ...decoding(q) };
  const asked = url(`${base}/messages`, { ...parameters, limit: q.limit });
  const live = q.live === '1';
  const scan = useScan(asked, live);
  const tail = useTail(live ? url(`${base}/tail`, { partition: q.partition, q: q.q, filter: q.filter, ...decoding(q) }) : null);
  const [produce, setProduce] = useState(null);
  const rows = live ? tail.rows : scan.rows;
  const options = (decoders.data?.items?.map((d) => d.name) ?? DECODERS);
  const set = (changes) => setQ({ ...changes, open: '' }, { replace: true });
  const exportHref = (format) => apiHref(url(`${base}/export`, { ...parameters, format }));
  return html`<div class="stack">
    <section class="card"><div class="toolbar messages-bar">
      <label class="sr" for="m-partition">${t.topic.partition}</label><select class="select" id="m-partition" onChange=${(e) => set({ partition: e.target.value, ...(e.target.value === 'all' && q.from === 'offset' ? { from: 'newest' } : {}) })}><option value="all" selected=${q.partition === 'all'}>${t.messages.allPartitions}</option>
        ${(topic?.partitions ?? []).slice(0, 1000).map((p) => html`<option key=${p.partition} value=${p.partition} selected=${q.partition === String(p.partition)}>${t.topic.partition} ${p.partition}</option>`)}</select>
      <label class="sr" for="m-from">${t.messages.from}</label><select class="select" id="m-from" disabled=${live} onChange=${(e) => set({ from: e.target.value, ...(e.target.value === 'time' && !q.time ? { time: String(serverNow() - 3600000) } : {}), ...(e.target.value === 'offset' ? { partition: q.partition === 'all' ? String(topic?.partitions?.[0]?.partition ?? 0) : q.partition, offset: q.offset || '0' } : {}) })}>${['newest', 'oldest', 'offset', 'time'].map((k) => html`<option key=${k} value=${k} selected=${q.from === k}>${t.messages.froms[k]}</option>`)}</select>
      ${q.from === 'offset' && html`<label class="sr" for="m-offset">${t.messages.offset}</label><input class="input w-offset" id="m-offset" inputmode="numeric" value=${q.offset} placeholder=${t.messages.offset} onChange=${(e) => set({ offset: e.target.value.replace(/\D/g, '') })} />`}
      ${q.from === 'time' && html`<label class="sr" for="m-time">${t.messages.time}</label><input class="input w-time" id="m-time" type="datetime-local" step="1" value=${f.toInput(q.time)} onChange=${(e) => set({ time: f.fromInput(e.target.value) ?? '' })} /><span class="dim tiny">${f.zone(Number(q.time) || undefined)}</span>`}
      <${Search} value=${q.q} placeholder=${t.messages.search} onChange=${(text) => set({ q: text })} />
      <div class="row"><button type="button" class=${`btn ${live ? 'primary' : ''}`} aria-pressed=${live ? 'true' : 'false'} onClick=${() => set({ live: live ? '' : '1' })}><${Icon} name=${live ? 'pause' : 'bolt'} size=${15} />${live ? t.messages.stopTail : t.messages.tail}</button>
        <${WriteButton} onClick=${() => setProduce({})}><${Icon} name="send" size=${15} />${t.messages.produce}<//>
        <button type="button" class="btn icon" aria-label=${t.action.reload} title=${t.action.reload} disabled=${live} onClick=${scan.reload}><${Icon} name="refresh" size=${15} /></button></div></div>
      <${FilterBar} q=${q} set=${set} options=${options} exportHref=${exportHref} name=${name} />
      ${live ? html`<${TailState} tail=${tail} />` : html`<${ScanState} scan=${scan} />`}
      ${scan.error && !live && html`<div class="pad"><${Problem} error=${scan.error} retry=${scan.reload} /></div>`}
      ${!live && scan.partial?.length > 0 && html`<div class="pad"><${Partial} partial=${scan.partial} /></div>`}
      ${rows.length > 0 && html`<${Rows} rows=${rows} q=${q} setQ=${setQ} base=${base} onProduce=${setProduce} />`}
      ${rows.length === 0 && (live ? html`<${Empty} icon="bolt" title=${t.messages.tailEmpty}>${t.messages.tailEmptyHelp}<//>` : scan.loading ? html`<div class="pad"><${Skeleton} rows=${8} /></div>` : !scan.error && html`<${Empty} icon="topics" title=${q.q || q.filter ? t.messages.noMatch : t.messages.none}
        actions=${scan.next && html`<button type="button" class="btn" onClick=${scan.more}>${t.messages.searchOn}</button>`}>${q.q || q.filter ? (scan.next ? t.messages.noMatchYet(f.int(scan.scanned), f.bytes(scan.scannedBytes)) : t.messages.noMatchAll(f.int(scan.scanned))) : t.messages.noneHelp}<//>`)}
      ${!live && rows.length > 0 && html`<div class="foot"><span role="status">${t.messages.shown(rows.length)}</span>${scan.next ? html`<button type="button" class="btn s" disabled=${scan.loading || rows.length >= ROWS_MAX} onClick=${scan.more}>${scan.loading ? t.working : rows.length >= ROWS_MAX ? t.messages.full(ROWS_MAX) : q.from === 'newest' ? t.messages.older : t.messages.newer}</button>` : html`<span>${t.messages.end}</span>`}</div>`}
    </section>
    ${produce && html`<${Produce} name=${name} topic=${topic} template=${produce} onClose=${() => setProduce(null)} onDone=${() => { if (!live) scan.reload(); }} />`}</div>`;
}

/** Pages of a scan, appended to each other. */
function useScan(path, off) {
  const [state, setState] = useState({ rows: [], loading: true, error: null, next: null, scanned: 0n, scannedBytes: 0n, partial: [] });
  const [turn, setTurn] = useState(0);
  const abort = useRef(null);
  const ask = async (cursor, before) => {
    abort.current?.abort();
    const mine = new AbortController();
    abort.current = mine;
    setState((s) => ({ ...s, ...(cursor ? {} : { rows: [], scanned: 0n, scannedBytes: 0n, next: null, stoppedBy: null, asOf: null }), partial: [], loading: true, error: null, startedMs: Date.now() }));
    try {
      const data = await api(cursor ? `${path}&cursor=${encodeURIComponent(cursor)}` : path, { signal: mine.signal });
      setState((s) => {
        const known = new Set(cursor ? s.rows.map(id) : []);
        return { rows: [...(cursor ? s.rows : []), ...data.items.filter((m) => !known.has(id(m)))].slice(0, ROWS_MAX), loading: false, error: null, next: data.next_cursor, stoppedBy: data.stopped_by, asOf: data.as_of_ms, partial: data.partial ?? [],
          scanned: s.scanned + (f.big(data.scanned_records) ?? 0n), scannedBytes: s.scannedBytes + (f.big(data.scanned_bytes) ?? 0n) };
      });
    } catch (error) {
      if (error.name === 'AbortError') { if (abort.current === mine) setState((s) => ({ ...s, loading: false, stoppedBy: 'cancelled' })); return; }
      setState((s) => ({ ...s, loading: false, error }));
    }
  };
  useEffect(() => { if (!off) ask(null); return () => { const last = abort.current; abort.current = null; last?.abort(); }; }, [path, off, turn]);
  return { ...state, more: () => ask(state.next), reload: () => setTurn((n) => n + 1), cancel: () => abort.current?.abort() };
}

/** Records as they come; the oldest fall out. Paused by the reader, they are counted and shown on resuming. */
function useTail(path) {
  const [rows, setRows] = useState([]);
  const [state, setState] = useState({ status: 'connecting', stats: null, dropped: 0n, reason: null, waiting: 0 });
  const paused = useRef(false);
  const held = useRef([]);
  const [isPaused, setPaused] = useState(false);
  useEffect(() => {
    if (!path) return undefined;
    setRows([]);
    held.current = [];
    paused.current = false;
    setPaused(false);
    setState({ status: 'connecting', stats: null, dropped: 0n, reason: null, waiting: 0 });
    const source = new EventSource(apiHref(path));
    source.onopen = () => setState((s) => ({ ...s, status: 'live' }));
    source.onerror = () => setState((s) => ({ ...s, status: source.readyState === EventSource.CLOSED ? 'failed' : 'reconnecting' }));
    source.addEventListener('messages', (event) => {
      let items;
      try { items = JSON.parse(event.data).items ?? []; } catch { return; }
      const newest = [...items].reverse();
      if (paused.current) {
        held.current = [...newest, ...held.current].slice(0, TAIL_ROWS_MAX);
        setState((s) => ({ ...s, waiting: s.waiting + items.length }));
      } else setRows((r) => [...newest, ...r].slice(0, TAIL_ROWS_MAX));
    });
    source.addEventListener('stats', (event) => {
      try { const stats = JSON.parse(event.data); setState((s) => ({ ...s, stats, dropped: f.big(stats.dropped) ?? s.dropped })); } catch { /* next second */ }
    });
    for (const type of ['end', 'problem']) {
      source.addEventListener(type, (event) => {
        let reason = null;
        try { const data = JSON.parse(event.data); reason = data.reason ?? data.detail ?? null; } catch { /* unknown */ }
        source.close();
        setState((s) => ({ ...s, status: 'ended', reason }));
      });
    }
    return () => source.close();
  }, [path]);
  const pause = (on) => {
    paused.current = on;
    setPaused(on);
    if (!on) { const more = held.current; held.current = []; setRows((r) => [...more, ...r].slice(0, TAIL_ROWS_MAX)); setState((s) => ({ ...s, waiting: 0 })); }
  };
  return { rows, ...state, paused: isPaused, pause, clear: () => setRows([]) };
}

function ScanState({ scan }) {
  return html`<div class="scan-state small">${scan.loading ? html`<span role="status">${t.messages.scanning}</span><button type="button" class="btn s" onClick=${scan.cancel}>${t.action.cancel}</button>`
    : html`<span role="status">${t.messages.scanned(f.int(scan.scanned), f.bytes(scan.scannedBytes))}${scan.stoppedBy && scan.stoppedBy !== 'limit' && scan.stoppedBy !== 'end' ? ` ${t.messages.stopped[scan.stoppedBy] ?? scan.stoppedBy}` : ''}</span>`}</div>`;
}

function TailState({ tail }) {
  const level = { live: 'ok', reconnecting: 'warn', ended: 'warn', failed: 'crit' }[tail.status] ?? '';
  return html`<div class="scan-state small"><span class="row" role="status" aria-live="off"><${Badge} level=${tail.paused ? 'info' : level} dot>${tail.paused ? t.live.paused : t.live[tail.status] ?? tail.status}<//>${tail.reason && html`<span>${tail.reason}</span>`}
    ${tail.stats && html`<span class="num">${t.messages.tailStats(f.rate(tail.stats.per_sec) ?? t.unknown.word, f.int(tail.stats.scanned) ?? t.unknown.word)}</span>`}${tail.dropped > 0n && html`<${Badge} level="warn">${t.messages.dropped(f.int(String(tail.dropped)))}<//>`}${tail.paused && tail.waiting > 0 && html`<span>${t.messages.waiting(tail.waiting)}</span>`}</span>
    <div class="row"><button type="button" class="btn s" onClick=${() => tail.pause(!tail.paused)}>${tail.paused ? t.live.resume : t.live.pause}</button><button type="button" class="btn s" onClick=${tail.clear}>${t.action.clear}</button></div></div>`;
}

function FilterBar({ q, set, options, exportHref, name }) {
  const [text, setText] = useState(q.filter);
  const [problem, setProblem] = useState(null);
  const [open, setOpen] = useState(q.key === 'avro' || q.value === 'avro');
  useEffect(() => setText(q.filter), [q.filter]);
  const apply = async (event) => {
    event?.preventDefault();
    if (!text.trim()) { setProblem(null); set({ filter: '' }); return; }
    try {
      const answer = await api(url('/filter/check', { filter: text }));
      if (answer.ok) { setProblem(null); set({ filter: text }); } else setProblem(answer.error || t.messages.badFilter);
    } catch (error) { setProblem(error.message); }
  };
  const kcat = `kcat -C -b "$BOOTSTRAP" -t '${name}'${q.partition === 'all' ? '' : ` -p ${q.partition}`} -o ${q.from === 'newest' ? `-${q.limit}` : q.from === 'oldest' ? 'beginning' : q.from === 'offset' ? q.offset || '0' : `s@${q.time}`} -c ${q.limit} -e -f '%p %o %T %k %s\\n'`;
  return html`<div class="filter-bar"><form class="row" onSubmit=${apply}><label class="sr" for="m-filter">${t.messages.filter}</label>
      <div class="grow"><input class="input mono" id="m-filter" value=${text} onInput=${(e) => setText(e.target.value)} placeholder=${t.messages.filterPlaceholder} aria-invalid=${problem ? 'true' : undefined} aria-describedby="m-filter-help" spellcheck=${false} autocomplete="off" /></div>
      <button class="btn">${t.messages.applyFilter}</button><button type="button" class="btn ghost" aria-expanded=${open ? 'true' : 'false'} onClick=${() => setOpen(!open)}>${t.messages.options}</button></form>
    <div id="m-filter-help">${problem && html`<div class="text-crit small" role="alert">${problem}</div>`}</div>
    ${open && html`<div class="stack-s"><p class="note">${t.messages.filterHelp} <code>${t.messages.filterExample}</code></p><div class="form-grid">
      <${SelectField} label=${t.messages.keyDecoder} value=${q.key} onChange=${(e) => set({ key: e.target.value })} options=${withAuto(options).map((o) => [o, t.messages.decoders[o] ?? o])} />
      <${SelectField} label=${t.messages.valueDecoder} value=${q.value} onChange=${(e) => set({ value: e.target.value })} options=${withAuto(options).map((o) => [o, t.messages.decoders[o] ?? o])} />
      <${SelectField} label=${t.messages.limit} value=${q.limit} onChange=${(e) => set({ limit: e.target.value })} options=${['20', '50', '100', '200', '500'].map((n) => [n, n])} /></div>
      ${q.value === 'avro' && html`<${SchemaField} label=${t.messages.valueSchema} value=${q.vschema} onUse=${(vschema) => set({ vschema })} />`}${q.key === 'avro' && html`<${SchemaField} label=${t.messages.keySchema} value=${q.kschema} onUse=${(kschema) => set({ kschema })} />`}
      <div class="row"><a class="btn" href=${exportHref('jsonl')} download><${Icon} name="down" size=${15} />${t.messages.exportJsonl}</a><a class="btn" href=${exportHref('csv')} download><${Icon} name="down" size=${15} />${t.messages.exportCsv}</a>
        <button type="button" class="btn" onClick=${() => copyText(kcat)}><${Icon} name="copy" size=${15} />${t.messages.copyKcat}</button></div></div>`}</div>`;
}
/** How keys and values are decoded, for the server. */
const decoding = (q) => ({ key_decoder: q.key, value_decoder: q.value, key_schema: q.key === 'avro' ? q.kschema : '', value_schema: q.value === 'avro' ? q.vschema : '' });

const SCHEMA_BYTES_MAX = 16384;

/** A schema for Avro; without the space that people put into it. */
function SchemaField({ label, value, onUse }) {
  const [text, setText] = useState(value);
  const [problem, setProblem] = useState(null);
  useEffect(() => setText(value && (f.indentJson(value)?.map(([, part]) => part).join('') ?? value)), [value]);
  const use = () => {
    if (!text.trim()) { setProblem(t.messages.schemaNone); return; }
    let small;
    try { small = JSON.stringify(JSON.parse(text)); } catch (error) { setProblem(t.messages.schemaBad(error.message)); return; }
    const bytes = new TextEncoder().encode(small).length;
    setProblem(bytes > SCHEMA_BYTES_MAX ? t.messages.schemaLong(f.bytes(bytes)) : null);
    if (bytes <= SCHEMA_BYTES_MAX) onUse(small);
  };
  return html`<div class="stack-s"><${AreaField} label=${label} help=${t.messages.schemaHelp} error=${problem} rows="6" class="textarea mono" value=${text} onInput=${(e) => setText(e.target.value)} /><div class="row"><button type="button" class="btn" onClick=${use}>${t.messages.useSchema}</button></div></div>`;
}
const withAuto = (options) => (options.includes('auto') ? options : ['auto', ...options]);

function Rows({ rows, q, setQ, base, onProduce }) {
  return html`<div class="scroll" role="region" aria-label=${t.messages.title} tabindex="0"><table class="table messages"><caption class="sr">${t.messages.title}</caption><thead><tr><th scope="col">${t.messages.position}</th><th scope="col">${t.messages.time}</th><th scope="col">${t.messages.key}</th><th scope="col">${t.messages.value}</th><th scope="col" class="r hide-s">${t.topics.size}</th></tr></thead>
    <tbody>${rows.map((m) => { const open = q.open === id(m); return html`<${MessageRow} key=${id(m)} m=${m} open=${open} toggle=${() => setQ({ open: open ? '' : id(m) }, { replace: true })} base=${base} q=${q} onProduce=${onProduce} />`; })}</tbody></table></div>`;
}

const Payload = ({ d, tombstone }) => (d === null || d === undefined ? html`<span class="dim">${tombstone ? t.messages.tombstone : t.messages.null}</span>`
  : d.decoder === 'empty' ? html`<span class="dim">${t.messages.emptyText}</span>` : html`<span class="payload">${f.oneLine(d.text)}</span>`);

function MessageRow({ m, open, toggle, base, q, onProduce }) {
  return html`<tr class=${open ? 'hit' : ''}><td class="tight"><button type="button" class="link-button num" aria-expanded=${open ? 'true' : 'false'} onClick=${toggle}><span class="dim">${m.partition}</span>·${f.int(m.offset)}</button>${m.control && html` <${Badge} level="info">${t.messages.control}<//>`}${m.headers?.length > 0 && html` <${Badge} title=${t.messages.headers}>${t.messages.headerCount(m.headers.length)}<//>`}</td>
    <td class="tight"><${Time} ms=${m.timestamp_ms} millis /></td><td class="cell-key"><${Payload} d=${m.key} /></td><td class="cell-value"><${Payload} d=${m.value} tombstone /></td><td class="r hide-s"><${Bytes} v=${m.size_bytes} /></td></tr>
    ${open && html`<tr class="detail"><td colspan="5"><${Detail} m=${m} base=${base} q=${q} onProduce=${onProduce} toggle=${toggle} /></td></tr>`}`;
}

function Detail({ m, base, q, onProduce, toggle }) {
  const path = `${base}/messages/${m.partition}/${m.offset}`;
  const whole = useLoad(m.value?.truncated || m.key?.truncated ? url(path, decoding(q)) : null);
  const shown = whole.data ? { ...m, ...whole.data } : m;
  const link = `${location.origin}${location.pathname}?partition=${m.partition}&from=offset&offset=${m.offset}&open=${m.partition}%3A${m.offset}`;
  return html`<div class="message"><div class="row spread"><dl class="kv inline"><dt>${t.topic.partition}</dt><dd>${m.partition}</dd><dt>${t.messages.offset}</dt><dd class="num">${m.offset}</dd><dt>${t.messages.timeTypes[m.timestamp_type] ?? t.messages.time}</dt><dd><${Time} ms=${m.timestamp_ms} millis /></dd>
      <dt>${t.messages.codec}</dt><dd>${m.codec ?? html`<${Unknown} />`}</dd>${!f.unknown(m.producer_id) && String(m.producer_id) !== '-1' && html`<dt>${t.messages.producer}</dt><dd class="num">${m.producer_id}${m.transactional ? ` ${t.messages.transactional}` : ''}</dd>`}</dl>
    <div class="row"><button type="button" class="btn s" onClick=${() => copyText(link)}><${Icon} name="link" size=${14} />${t.messages.copyLink}</button>
      ${!m.control && html`<${WriteButton} class="s" onClick=${() => onProduce(template(shown))}><${Icon} name="send" size=${14} />${t.messages.again}<//>`}<button type="button" class="btn s ghost icon" aria-label=${t.action.close} onClick=${toggle}><${Icon} name="close" size=${14} /></button></div></div>
    ${whole.error && html`<${Problem} error=${whole.error} retry=${whole.reload} />`}
    <${Body} title=${t.messages.key} d=${shown.key} raw=${apiHref(url(path, { raw: 'key' }))} /><${Body} title=${t.messages.value} d=${shown.value} raw=${apiHref(url(path, { raw: 'value' }))} tombstone />
    <div class="stack-s"><h3>${t.messages.headers}</h3>${shown.headers?.length ? html`<dl class="kv">${shown.headers.map((h, i) => html`<dt key=${i} class="mono break">${h.key}</dt><dd class="mono"><${Payload} d=${h.value} /></dd>`)}</dl>` : html`<span class="dim small">${t.messages.noHeaders}</span>`}</div></div>`;
}

function Body({ title, d, raw, tombstone }) {
  const [view, setView] = useState('pretty');
  const json = useMemo(() => (d && d.decoder !== 'hex' && d.decoder !== 'text' ? f.indentJson(d.text) : null), [d]);
  return html`<div class="stack-s"><div class="row spread"><h3>${title}</h3>${d && d.decoder !== 'empty' && html`<div class="row"><${Badge}>${t.messages.decoders[d.decoder] ?? d.decoder}<//><span class="dim tiny">${f.bytes(d.size_bytes)}</span>
      ${json && html`<${Segmented} label=${t.messages.view} value=${view} onChange=${setView} options=${[['pretty', t.messages.pretty], ['raw', t.messages.rawText]]} />`}
      <button type="button" class="btn s ghost" onClick=${() => copyText(d.text)}><${Icon} name="copy" size=${14} />${t.action.copy}</button><a class="btn s ghost" href=${raw} download><${Icon} name="down" size=${14} />${t.messages.download}</a></div>`}</div>
    ${d?.note && html`<div class="dim small">${d.note}</div>`}
    ${!d || d.decoder === 'empty' ? html`<div class="small"><${Payload} d=${d} tombstone=${tombstone} /></div>` : html`<pre class="payload-box" tabindex="0" aria-label=${title}>${json && view === 'pretty' ? json.map(([cls, text]) => (cls ? html`<span class=${cls}>${text}</span>` : text)) : d.text}</pre>`}
    ${d?.truncated && html`<div class="small text-warn">${t.messages.truncated}</div>`}</div>`;
}

const template = (m) => ({ key: m.key?.text ?? null, value: m.value?.text ?? null, partition: null, headers: (m.headers ?? []).map((h) => ({ key: h.key, value: h.value?.text ?? '' })) });

function Produce({ name, topic, template: from, onClose, onDone }) {
  const [form, setForm] = useState({ partition: '', hasKey: from.key !== null && from.key !== undefined, key: from.key ?? '', keyEncoding: 'text', tombstone: from.value === null, value: from.value ?? '', valueEncoding: 'text',
    headers: (from.headers ?? []).map((h) => `${h.key}: ${h.value}`).join('\n'), many: false });
  const [done, setDone] = useState(null);
  const set = (changes) => { setDone(null); setForm((s) => ({ ...s, ...changes })); };
  const parsed = useMemo(() => records(form), [form]);
  const [run, state] = useAction(async () => {
    const answer = await api(`/topics/${seg(name)}/messages`, { method: 'POST', body: { records: parsed.records } });
    setDone(answer.results);
    toast(t.messages.produced(answer.results.length));
    onDone();
  });
  return html`<${Dialog} title=${t.messages.produceTitle(name)} wide onClose=${onClose} onSubmit=${() => !parsed.error && !state.busy && run()} foot=${html`<button type="button" class="btn" onClick=${onClose}>${done ? t.action.close : t.action.cancel}</button><button class="btn primary" disabled=${!!parsed.error || state.busy}>${state.busy ? t.working : t.messages.send(parsed.records?.length ?? 0)}</button>`}>
    <${Segmented} label=${t.messages.produceMode} value=${form.many ? 'many' : 'one'} onChange=${(k) => set({ many: k === 'many' })} options=${[['one', t.messages.one], ['many', t.messages.many]]} />
    ${form.many ? html`<${AreaField} label=${t.messages.manyLabel} help=${t.messages.manyHelp} rows="8" value=${form.lines ?? ''} error=${form.lines ? parsed.error : null} onInput=${(e) => set({ lines: e.target.value })} />` : html`
    <div class="form-grid"><${SelectField} label=${t.topic.partition} value=${form.partition} onChange=${(e) => set({ partition: e.target.value })} options=${[['', t.messages.byKey], ...(topic?.partitions ?? []).slice(0, 1000).map((p) => [String(p.partition), String(p.partition)])]} />
      <${SelectField} label=${t.messages.keyEncoding} value=${form.hasKey ? form.keyEncoding : 'null'} onChange=${(e) => set({ hasKey: e.target.value !== 'null', keyEncoding: e.target.value })} options=${[['null', t.messages.noKey], ['text', t.messages.asText], ['base64', t.messages.asBase64]]} />
      <${SelectField} label=${t.messages.valueEncoding} value=${form.tombstone ? 'null' : form.valueEncoding} onChange=${(e) => set({ tombstone: e.target.value === 'null', valueEncoding: e.target.value })} options=${[['text', t.messages.asText], ['base64', t.messages.asBase64], ['null', t.messages.tombstone]]} /></div>
    ${form.hasKey && html`<${TextField} label=${t.messages.key} value=${form.key} onInput=${(e) => set({ key: e.target.value })} name="key" />`}
    ${!form.tombstone && html`<${AreaField} label=${t.messages.value} rows="6" value=${form.value} onInput=${(e) => set({ value: e.target.value })} name="value" />`}
    <${AreaField} label=${t.messages.headers} help=${t.messages.headersHelp} rows="2" value=${form.headers} onInput=${(e) => set({ headers: e.target.value })} error=${parsed.error} name="headers" />`}
    ${done && html`<${Banner} level="ok" title=${t.messages.produced(done.length)} live><span class="num">${done.slice(0, 10).map((r) => `${r.partition}·${f.int(r.offset)}`).join(', ')}</span><//>`}
    <${Problem} error=${state.error} /><//>`;
}

function records(form) {
  if (form.many) {
    const out = [];
    for (const [i, line] of (form.lines ?? '').split('\n').entries()) {
      if (!line.trim()) continue;
      let r;
      try { r = JSON.parse(line); } catch { return { error: t.messages.badLine(i + 1) }; }
      if (typeof r !== 'object' || r === null || Array.isArray(r)) return { error: t.messages.badLine(i + 1) };
      const text = (v) => (v === null || v === undefined ? null : typeof v === 'string' ? v : JSON.stringify(v));
      out.push({ partition: Number.isInteger(r.partition) ? r.partition : null, key: text(r.key), key_encoding: 'text', value: text(r.value), value_encoding: 'text', headers: Array.isArray(r.headers) ? r.headers.map((h) => ({ key: String(h.key), value: text(h.value) })) : [], timestamp_ms: null });
    }
    if (out.length === 0) return { error: t.messages.noLines };
    if (out.length > 500) return { error: t.messages.tooMany(500) };
    return { records: out };
  }
  const headers = [];
  for (const line of form.headers.split('\n').filter((l) => l.trim())) {
    const at = line.indexOf(':');
    if (at < 1) return { error: t.messages.badHeader(line) };
    headers.push({ key: line.slice(0, at).trim(), value: line.slice(at + 1).trim() });
  }
  return { records: [{ partition: form.partition === '' ? null : Number(form.partition), key: form.hasKey ? form.key : null, key_encoding: form.keyEncoding === 'base64' ? 'base64' : 'text', value: form.tombstone ? null : form.value, value_encoding: form.valueEncoding === 'base64' ? 'base64' : 'text', headers, timestamp_ms: null }] };
}
