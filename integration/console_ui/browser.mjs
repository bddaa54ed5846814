// A browser whose user notices everything: errors on the console, requests that the policy blocks, dialogs that a payload opens.
import { createRequire } from 'node:module';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const installed = createRequire(path.join(process.env.CONSOLE_UI_MODULES, 'package.json'));
const { chromium } = installed('playwright-core');
const axeSource = fs.readFileSync(installed.resolve('axe-core/axe.min.js'), 'utf8');

/** Generous: tests share two cores with a compiler. */
export const PATIENCE_MS = 30000;

function program() {
  for (const name of [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].filter(Boolean)) {
    try { return execFileSync('sh', ['-c', 'command -v "$0"', name], { encoding: 'utf8' }).trim(); } catch { /* the next one */ }
  }
  throw new Error('no Chromium: run scripts/setup.sh test, which installs it');
}

export async function launch() {
  // The sandbox needs rights that a container's root does not have; pages are ours.
  return chromium.launch({ executablePath: program(), args: process.getuid() === 0 ? ['--no-sandbox'] : [] });
}

export class Visit {
  /** One person with one window. */
  static async begin(browser, base, { theme = 'light', width = 1440, shots = null, timezone = 'Europe/Berlin' } = {}) {
    const context = await browser.newContext({
      viewport: { width, height: width < 500 ? 844 : 900 }, colorScheme: theme, timezoneId: timezone, locale: 'en-GB', acceptDownloads: true, baseURL: base,
      permissions: ['clipboard-read', 'clipboard-write'],
    });
    const visit = new Visit();
    Object.assign(visit, { context, base, theme, width, shots, problems: [], allowed: [] });
    visit.page = await context.newPage();
    visit.page.setDefaultTimeout(PATIENCE_MS);
    visit.page.on('console', (m) => { if (['error', 'warning'].includes(m.type())) visit.note(`console ${m.type()}: ${m.text()} (${m.location().url ?? ''})`); });
    visit.page.on('pageerror', (e) => visit.note(`page error: ${e.stack ?? e.message}`));
    visit.page.on('dialog', (d) => { visit.note(`a script ran: ${d.type()} ${d.message()}`); d.dismiss().catch(() => {}); });
    return visit;
  }

  note(text) { if (!this.allowed.some((pattern) => pattern.test(text))) this.problems.push(text); }

  /** Problems of this form are what the scenario is about. */
  allow(pattern) { this.allowed.push(pattern); return () => { this.allowed = this.allowed.filter((p) => p !== pattern); }; }

  async signIn(username, password, to = '/') {
    await this.page.goto(`/login${to === '/' ? '' : `?next=${encodeURIComponent(to)}`}`);
    await this.page.fill('#username', username);
    await this.page.fill('#password', password);
    await this.page.click('button:has-text("Sign in")');
    await this.page.waitForSelector('main#main h1');
  }

  /** Goes to a page and waits until it has loaded what it shows. */
  async go(to) {
    await this.page.goto(to);
    await this.settled();
  }

  async settled() {
    await this.page.waitForSelector('main h1');
    await this.page.waitForFunction(() => !document.querySelector('main .skel'));
  }

  async shot(name) {
    if (!this.shots) return;
    fs.mkdirSync(this.shots, { recursive: true });
    await this.page.screenshot({ path: path.join(this.shots, `${name}-${this.width}-${this.theme}.png`), fullPage: true });
  }

  /** What axe-core finds that is serious or critical. Run in the page's own world, where its policy forbids eval but not this. */
  async axe(name) {
    const result = await this.page.evaluate(`(async () => { if (!window.axe) { ${axeSource} }
      return window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'] }); })()`);
    for (const v of result.violations.filter((x) => ['serious', 'critical'].includes(x.impact))) {
      this.note(`axe ${v.impact} ${v.id} on ${name} (${this.theme}, ${this.width}): ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} ${n.any[0]?.message ?? n.all[0]?.message ?? ''}`).join('; ')}`);
    }
    return result.violations.length;
  }

  /** Nothing is cut off or scrolls sideways. */
  async fits(name) {
    const over = await this.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) this.note(`${name} is ${over} px too wide at ${this.width}`);
  }

  async text(selector = 'main') { return this.page.locator(selector).innerText(); }

  async expectText(pattern, selector = 'body') {
    const has = (text) => (pattern instanceof RegExp ? pattern.test(text) : text.includes(pattern));
    const end = Date.now() + PATIENCE_MS;
    let text = '';
    while (Date.now() < end) {
      text = await this.page.locator(selector).first().innerText().catch(() => '');
      if (has(text)) return text;
      await this.page.waitForTimeout(100);
    }
    throw new Error(`${this.page.url()}: ${pattern} is not in:\n${text.slice(0, 3000)}`);
  }

  async end() {
    await this.context.close();
    if (this.problems.length) throw new Error(`what the browser had to say:\n  ${[...new Set(this.problems)].join('\n  ')}`);
  }
}

/** True, or an error that says what was wanted. */
export function want(condition, what) { if (!condition) throw new Error(`wanted: ${what}`); }
