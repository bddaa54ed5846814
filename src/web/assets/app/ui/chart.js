// Time series: a canvas by uPlot with a readout under the pointer, and the same numbers as a table for those who cannot see it.
import { html, useEffect, useRef, useState } from '../lib.js';
import uPlot from '../../vendor/uplot.js';
import { t } from '../text.js';
import * as f from '../format.js';
import { theme, timeMode } from '../state.js';


const COLOURS = 6;
/** Steps of an axis of bytes. */
const BINARY = Array.from({ length: 60 }, (_, i) => 2 ** i);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Units of the API → how a value is shown. */
export const UNITS = {
  bytes_per_sec: f.byteRate, per_sec: f.rate, ms: f.millis, bytes: f.bytes, ratio: f.percent, records: f.int, count: (v) => f.compact(v),
};
export const unitFormat = (unit) => UNITS[unit] ?? ((v) => (f.unknown(v) ? null : f.short(Number(v))));

/** series: [{name, points: [[t_ms, value|null]]}] on a common time axis. */
function align(series) {
  const times = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const columns = series.map((s) => {
    const map = new Map(s.points.map((p) => [p[0], f.unknown(p[1]) ? null : Number(p[1])]));
    return times.map((time) => map.get(time) ?? null);
  });
  return [times, ...columns];
}

/** Indices of values without neighbours: a line would not show them. */
function alone(u, index) {
  const values = u.data[index];
  const [from, to] = u.series[0].idxs ?? [0, values.length - 1];
  const found = [];
  for (let i = from; i <= to; i += 1) if (values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null) found.push(i);
  return found.length ? found : null;
}

export function Chart({ title, series, unit, format = unitFormat(unit), empty, height = 180, fromMs, toMs }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [at, setAt] = useState(null);
  const [asTable, setAsTable] = useState(false);
  const data = align(series);
  const hasData = data.slice(1).some((column) => column.some((v) => v !== null));
  const look = `${theme.value}${timeMode.value}${series.map((s) => s.name).join('\u0000')}${asTable}${hasData}`;

  useEffect(() => {
    if (asTable || !hasData || !box.current) return undefined;
    const utc = timeMode.peek() === 'utc';
    const axis = { stroke: css('--text-3'), grid: { stroke: css('--line'), width: 1 }, ticks: { show: false }, font: '11px Inter, system-ui, sans-serif' };
    const u = new uPlot({
      width: box.current.clientWidth || 400, height, legend: { show: false }, ms: 1, padding: [8, 20, 0, 0],
      tzDate: utc ? (ts) => uPlot.tzDate(new Date(ts), 'Etc/UTC') : undefined,
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.12 : 1] }, x: fromMs && toMs ? { range: () => [fromMs, toMs] } : { range: (_, low, high) => (high - low >= 60000 ? [low, high] : [high - 60000, high]) } },
      axes: [{ ...axis, space: 70, size: 26, values: (_, splits) => splits.map((v) => f.clockTime(v, { seconds: splits.length > 1 && splits[1] - splits[0] < 60000 })) },
        { ...axis, size: 74, gap: 6, space: 34, ...(/^bytes/.test(unit ?? '') ? { incrs: BINARY } : {}), values: (_, splits) => splits.map((v) => format(v)) }],
      series: [{}, ...series.map((s, i) => ({ label: s.name, stroke: css(`--c${(i % COLOURS) + 1}`), width: 1.75, points: { show: false, size: 4, filter: alone }, spanGaps: false,
        fill: series.length === 1 ? `color-mix(in srgb, ${css(`--c${(i % COLOURS) + 1}`)} 12%, transparent)` : undefined }))],
      hooks: { setCursor: [(self) => setAt(self.cursor.idx ?? null)] },
    }, data, box.current);
    plot.current = u;
    const resize = new ResizeObserver(() => { const w = box.current?.clientWidth; if (w) u.setSize({ width: w, height }); });
    resize.observe(box.current);
    return () => { resize.disconnect(); u.destroy(); plot.current = null; };
  }, [look, height]);
  useEffect(() => { plot.current?.setData(data); }, [series]);

  const last = data[0].length - 1;
  const index = at ?? last;
  const rows = asTable ? data[0].map((time, i) => [time, ...data.slice(1).map((c) => c[i])]).reverse().filter((_, i, all) => i % Math.max(1, Math.ceil(all.length / 60)) === 0) : [];
  return html`<figure class="chart" aria-label=${title}>
    <div class="row spread"><figcaption><h3>${title}</h3></figcaption>${hasData && html`<button type="button" class="btn ghost s" aria-pressed=${asTable ? 'true' : 'false'} onClick=${() => setAsTable(!asTable)}
      >${asTable ? t.chart.graph : t.chart.table}<span class="sr"> ${title}</span></button>`}</div>
    <div class="readout">${hasData && !asTable && html`<span class="num">${f.clockTime(data[0][index])}</span>${series.slice(0, 8).map((s, i) => html`<span class="key" key=${s.name}><span class=${`swatch s${i % COLOURS}`}></span>${s.name} <strong>${format(data[i + 1]?.[index]) ?? t.unknown.word}</strong></span>`)}${series.length > 8 && t.more(series.length - 8)}`}</div>
    ${asTable ? html`<div class="scroll tall" tabindex="0" role="region" aria-label=${title}><table class="table"><thead><tr><th scope="col">${t.chart.time}</th>${series.map((s) => html`<th scope="col" class="r" key=${s.name}>${s.name}</th>`)}</tr></thead>
      <tbody>${rows.map(([time, ...values]) => html`<tr key=${time}><td class="num">${f.dateTime(time)}</td>${values.map((v) => html`<td class="r">${format(v) ?? t.unknown.word}</td>`)}</tr>`)}</tbody></table></div>`
    : html`<div class="plot" ref=${box} role="img" aria-label=${hasData ? t.chart.summary(title, format(lastValue(data)), f.clockTime(data[0][0]), f.clockTime(data[0][last])) : empty ?? t.chart.empty}>
      ${!hasData && html`<div class="nodata">${empty ?? t.chart.empty}</div>`}</div>`}
  </figure>`;
}

function lastValue(data) {
  for (let i = data[0].length - 1; i >= 0; i -= 1) if (data[1]?.[i] !== null && data[1]?.[i] !== undefined) return data[1][i];
  return null;
}

/** A small line without axes; the number beside it says the value. */
export function Spark({ points, label }) {
  const known = points.filter((p) => !f.unknown(p[1]));
  if (known.length < 2) return html`<svg class="spark" viewBox="0 0 120 28" aria-hidden="true"></svg>`;
  const [from, to] = [points[0][0], points[points.length - 1][0]];
  const high = Math.max(...known.map((p) => Number(p[1])), 1e-9);
  let d = '';
  let pen = false;
  for (const [time, value] of points) {
    if (f.unknown(value)) { pen = false; continue; }
    const x = ((time - from) / Math.max(1, to - from)) * 120;
    const y = 26 - (Number(value) / high) * 23;
    d += `${pen ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = true;
  }
  return html`<svg class="spark" viewBox="0 0 120 28" preserveAspectRatio="none" role="img" aria-label=${label}><path d=${d} fill="none" stroke="currentColor" stroke-width="1.6" vector-effect="non-scaling-stroke" /></svg>`;
}

export const RANGES = [['15m', 900], ['1h', 3600], ['6h', 21600], ['24h', 86400]];
