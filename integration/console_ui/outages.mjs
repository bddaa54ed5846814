// When a broker, etcd or the object store is away, pages say what is unknown since when, and invent nothing. The Rust side ends and starts
// processes; this side is told by a line on standard input what is away now, and answers with a line when it has looked.
import readline from 'node:readline';
import { Visit, want } from './browser.mjs';

/** What pages must say of what is unknown while something is away. Since when is said on every page. */
const SAYS = {
  store: { '/': /the object store is (degraded|unavailable)/i, '/storage': /Degraded|Unavailable/, '/brokers': /Degraded|Unavailable/ },
  broker: {
    '/': /no broker is live|cannot be read|no leader/i, '/brokers': /No brokers known|Unreachable/, '/storage': /No broker has answered|did not answer/, '/topics': /without leader[^]*unknown/,
    '/topics/t': /No live broker is known/, '/topics/t/messages': /No live broker is known|no leader|cannot be read/i, '/topics/t/configs': /No live broker is known/, '/topics/t/segments': /no leader[^]*size unknown/,
    '/groups': /no live broker is known[^]*cannot be known/i, '/cost': /Stored\s+unknown/, '/actors': /did not answer|console/,
  },
  etcd: { '/': /etcd does not answer/, '/etcd': /Unavailable/, '/topics': /etcd: /, '/brokers': /etcd: /, '/topics/t/segments': /etcd: /, '/actors': /etcd: /, '/storage': /etcd: / },
};
const SINCE = /since \d\d:\d\d:\d\d/;
const PAGES = ['/', '/topics', '/topics/t', '/topics/t/messages', '/topics/t/configs', '/topics/t/segments', '/topics/t/groups', '/topics/t/cost', '/groups', '/brokers', '/storage', '/cost', '/etcd', '/actors', '/audit', '/settings'];

export async function outages(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password);
  visit.allow(/Failed to load resource.*status of (404|5\d\d)/);
  for await (const away of readline.createInterface({ input: process.stdin })) {
    if (away === 'end') break;
    for (const to of PAGES) {
      await visit.go(to);
      await visit.expectText(SAYS[away]?.[to] ?? SINCE, 'main');
      await visit.expectText(SINCE, 'main');
      const text = await visit.text();
      want(!/\b(NaN|undefined|Infinity|null ms|\[object Object\])\b/.test(text), `nothing that is no value on ${to} without ${away}:\n${text}`);
      await visit.axe(`${to} without ${away}`);
      await visit.shot(`without-${away}-${to.slice(1).replace(/\//g, '-') || 'overview'}`);
    }
    console.log(`looked ${away}`);
  }
  await visit.end();
}

/** The console itself is away: what was shown stays, says how old it is, and comes alive again by itself. */
export async function offline(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password, '/brokers');
  await visit.settled();
  const before = await visit.page.locator('main tbody tr').count();
  want(before > 0, 'brokers');
  visit.allow(/net::ERR_|Failed to fetch/);
  await visit.context.setOffline(true);
  const text = await visit.expectText('What you see is old');
  want(/It is from \d\d:\d\d:\d\d/.test(text), 'how old it is');
  want(await visit.page.locator('main tbody tr').count() === before, 'what was there to stay');
  await visit.axe('stale');
  await visit.shot('stale');
  await visit.context.setOffline(false);
  await visit.page.waitForFunction(() => !/What you see is old/.test(document.body.innerText));
  await visit.expectText(/^Live/m, 'header');
  await visit.end();
}
