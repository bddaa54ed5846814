// Charts of the last 24 hours that the console remembers by itself.
import { html, useMemo } from '../lib.js';
import { useLoad, url } from '../api.js';
import { nowMs } from '../state.js';
import { Chart, RANGES } from '../ui/chart.js';
import { Problem } from '../ui/parts.js';
import { t } from '../text.js';

const POINTS_WANTED = 180;
const NO_LABELS = {};

/**
 * charts: {title, metrics, names, unit, sum | max: one line per metric over all brokers, else one per label; labels: only these}
 */
export function HistoryCharts({ range, charts, labels = NO_LABELS, height }) {
  const seconds = (RANGES.find(([k]) => k === range) ?? RANGES[0])[1];
  const stepSec = Math.max(10, Math.ceil(seconds / POINTS_WANTED / 10) * 10);
  // The window moves with the step, so that the address of the request does not change every second.
  const toMs = Math.ceil(nowMs.value / (stepSec * 1000)) * stepSec * 1000;
  const fromMs = toMs - seconds * 1000;
  const metric = [...new Set(charts.flatMap((c) => c.metrics))].join(',');
  const window = `${range}`;
  const load = useLoadWindow(metric, fromMs, toMs, stepSec, window);
  const series = load.data?.series;
  const drawn = useMemo(() => charts.map((c) => ({ ...c, lines: lines(c, series ?? [], labels) })), [series, metric, JSON.stringify(labels)]);
  return html`<div class="stack-s">
    ${load.error && html`<${Problem} error=${load.error} retry=${load.reload} title=${t.chart.failed} />`}
    ${load.data?.partial?.length > 0 && html`<p class="dim tiny">${t.chart.gaps(load.data.partial.map((p) => p.source).join(', '))}</p>`}
    <div class="charts">${drawn.map((c) => html`<${Chart} key=${c.title} title=${c.title} series=${c.lines} unit=${c.unit} height=${height} fromMs=${fromMs} toMs=${toMs} empty=${load.loading && !series ? t.loading : t.chart.none} />`)}</div></div>`;
}

/** Keeps the last window's answer while the next one is asked for. */
let last = null;
function useLoadWindow(metric, fromMs, toMs, stepSec, range) {
  const load = useLoad(url('/history', { metric, from_ms: fromMs, to_ms: toMs, step_sec: stepSec }));
  const key = `${metric} ${range}`;
  if (load.data) last = { key, data: load.data };
  return load.data ? load : { ...load, data: last?.key === key ? last.data : undefined };
}

function lines(chart, series, labels) {
  const out = [];
  for (const metric of chart.metrics) {
    const mine = series.filter((s) => s.metric === metric && Object.entries(labels).every(([k, v]) => String(s.labels?.[k]) === String(v)));
    if (chart.sum || chart.max) {
      const name = chart.names?.[metric] ?? metric;
      if (mine.length) out.push({ name, points: merge(mine, chart.max) });
    } else {
      for (const s of mine) {
        const label = Object.entries(s.labels ?? {}).filter(([k]) => !(k in labels)).map(([k, v]) => t.chart.label(k, v)).join(' ');
        out.push({ name: [chart.metrics.length > 1 || !label ? chart.names?.[metric] ?? metric : '', label].filter(Boolean).join(' '), points: s.points });
      }
    }
  }
  return out;
}

/** Sum or maximum over series; a moment is unknown only if all of them are. */
function merge(all, max) {
  const at = new Map();
  for (const s of all) {
    for (const [time, value] of s.points) {
      const before = at.get(time);
      if (value === null || value === undefined) { if (!at.has(time)) at.set(time, null); continue; }
      at.set(time, before === null || before === undefined ? value : max ? Math.max(before, value) : before + value);
    }
  }
  return [...at].sort((a, b) => a[0] - b[0]);
}
