// Every page with real data, some of it hostile: nothing is taken for markup, nothing on the console, nothing serious for axe-core,
// nothing too wide, in light and dark.
import { Visit, want } from './browser.mjs';
import { IMG, SCRIPT, SVG, TOPIC, consume, kafka, produce } from './kafka.mjs';

const at = (topic, tab) => `/topics/${encodeURIComponent(topic)}${tab ? `/${tab}` : ''}`;

export function everyPage(broker, group = IMG) {
  return {
    overview: '/', topics: '/topics', topic: at(TOPIC), messages: at(TOPIC, 'messages'), configs: at(TOPIC, 'configs'), 'topic-groups': at(TOPIC, 'groups'), segments: at(TOPIC, 'segments'), 'topic-cost': at(TOPIC, 'cost'),
    groups: '/groups', group: `/groups/${encodeURIComponent(group)}`, brokers: '/brokers', broker: `/brokers/${broker}`, 'broker-configs': `/brokers/${broker}?tab=configs`, storage: '/storage', cost: '/cost', etcd: '/etcd', actors: '/actors', audit: '/audit', settings: '/settings', api: '/reference',
    'no-such-topic': at('no-such-topic'), 'no-such-page': '/nowhere',
  };
}

export async function hostileData(s) {
  const admin = kafka(s.bootstrap).admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: TOPIC, numPartitions: 3, replicationFactor: 1 }, { topic: 'orders', numPartitions: 6, replicationFactor: 1 }] });
  await admin.disconnect();
  const headers = { [IMG]: IMG, [SCRIPT]: SCRIPT, [SVG]: SVG };
  await produce(s.bootstrap, TOPIC, [IMG, SCRIPT, SVG, '{"id":90071992547409931,"html":"<img src=x onerror=alert(6)>"}', '\u0000\u0001\u202Eabc', ''].map((value, i) => ({ partition: i % 3, key: i % 2 ? IMG : SCRIPT, value, headers })));
  await produce(s.bootstrap, 'orders', Array.from({ length: 300 }, (_, i) => ({ key: `customer-${i % 20}`, value: JSON.stringify({ order: i, total: i * 1.5, note: i === 137 ? 'the needle' : 'hay' }) })));
  return consume(s.bootstrap, { topic: TOPIC, groupId: IMG, clientId: SVG, count: 6 });
}

export async function pages(browser, s) {
  const member = await hostileData(s);
  try {
    for (const theme of ['light', 'dark']) {
      for (const width of theme === 'light' ? [1440, 1024, 390] : [1440, 390]) {
        const visit = await Visit.begin(browser, s.base, { theme, width, shots: s.shots });
        await visit.signIn(s.username, s.password);
        visit.allow(/Failed to load resource.*status of 404.*no-such-topic/);
        for (const [name, to] of Object.entries(everyPage(s.broker))) {
          await visit.go(to);
          if (width !== 1024) await visit.axe(name);
          await visit.fits(name);
          await visit.shot(name);
        }
        await visit.end();
      }
    }
    await payloads(browser, s);
    await keyboard(browser, s);
    await firstLoad(browser, s);
  } finally { await member.stop(); }
}

/** Hostile text is there, letter by letter. */
export async function payloads(browser, s) {
  const visit = await Visit.begin(browser, s.base, {});
  await visit.signIn(s.username, s.password);
  await visit.go(`${at(TOPIC, 'messages')}?from=oldest`);
  for (const text of [IMG, SCRIPT, SVG]) await visit.expectText(text, 'main');
  for (const row of await visit.page.locator('table.messages tbody tr:not(.detail) button').all()) {
    await row.click();
    await visit.page.waitForSelector('tr.detail .message');
    await visit.axe('message');
    for (const text of [IMG, SCRIPT, SVG]) await visit.expectText(text, 'tr.detail');
    await row.click();
  }
  await visit.go('/groups');
  await visit.expectText(IMG, 'main');
  await visit.go(`/groups/${encodeURIComponent(IMG)}`);
  await visit.expectText(IMG, 'main h1');
  await visit.expectText(SVG, 'main');
  await visit.page.keyboard.press('Control+k');
  await visit.page.fill('dialog input', '<img');
  await visit.expectText(IMG, 'dialog');
  await visit.axe('finder');
  const markup = await visit.page.evaluate(() => document.querySelectorAll('main img, main script, dialog img, dialog script').length);
  want(markup === 0, 'text to stay text');
  await visit.end();
}

/** Everything without a mouse. */
export async function keyboard(browser, s) {
  const visit = await Visit.begin(browser, s.base, {});
  await visit.signIn(s.username, s.password);
  const { keyboard: keys } = visit.page;
  await keys.press('g'); await keys.press('t');
  await visit.page.waitForURL(/\/topics$/);
  await visit.settled();
  await keys.press('/');
  want(await visit.page.evaluate(() => document.activeElement?.type === 'search'), 'the search field to have the focus');
  await keys.type('orders');
  await visit.page.waitForURL(/q=orders/);
  await visit.page.waitForFunction(() => document.querySelectorAll('main tbody tr').length === 1);
  await keys.press('Escape');
  await keys.press('j');
  await keys.press('Enter');
  await visit.page.waitForURL(/\/topics\/orders$/);
  await visit.settled();
  await keys.press('?');
  await visit.page.waitForSelector('dialog[open]');
  await visit.axe('keyboard help');
  await keys.press('Escape');
  await visit.page.waitForSelector('dialog[open]', { state: 'detached' });
  await visit.page.reload();
  await visit.settled();
  await keys.press('Tab');
  want(await visit.page.evaluate(() => document.activeElement?.className === 'skip'), 'the way past the navigation to come first');
  await keys.press('Enter');
  want(await visit.page.evaluate(() => document.activeElement?.id === 'main'), 'the focus in the content');
  await visit.end();
}

/** Bytes over the wire until the first page stands, and how long it takes as the browser's own clock has it. */
export async function firstLoad(browser, s) {
  const visit = await Visit.begin(browser, s.base, {});
  const sizes = [];
  visit.page.on('requestfinished', (request) => { sizes.push(request.sizes().then((z) => [request.url(), z.responseBodySize + z.responseHeadersSize]).catch(() => null)); });
  await visit.signIn(s.username, s.password);
  await visit.page.waitForFunction(() => document.querySelector('.stats'));
  const done = (await Promise.all(sizes)).filter((x) => x && !/\/api\//.test(x[0]));
  const total = done.reduce((sum, [, size]) => sum + size, 0);
  console.log(`first load: ${done.length} files, ${Math.round(total / 1024)} KiB`);
  want(total <= 300 * 1024, `a first load of 300 KiB or less, not ${total} bytes`);
  // Somebody who is signed in, with a browser that has nothing yet.
  const state = await visit.context.storageState();
  await visit.end();
  const context = await browser.newContext({ baseURL: s.base, storageState: state, viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  await page.goto('/', { waitUntil: 'commit' });
  const usableMs = await (await page.waitForFunction(() => document.querySelector('main .stats') && !document.querySelector('main .skel') && performance.now())).jsonValue();
  const times = await page.evaluate(() => {
    const [navigation] = performance.getEntriesByType('navigation');
    return { painted: performance.getEntriesByName('first-contentful-paint')[0]?.startTime, loaded: navigation.domContentLoadedEventEnd };
  });
  const ms = (n) => (n === undefined ? 'unknown' : `${Math.round(n)} ms`);
  console.log(`first load, signed in, nothing cached: first paint ${ms(times.painted)}, loaded ${ms(times.loaded)}, overview usable ${ms(usableMs)}`);
  await context.close();
}
