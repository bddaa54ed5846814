// What people come for: making and deleting topics, changing configs, finding and writing records, resetting a group.
import { Visit, want } from './browser.mjs';
import { consume, produce } from './kafka.mjs';

const button = (visit, name, where = 'main') => visit.page.locator(where).getByRole('button', { name, exact: true });

export async function topics(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password, '/topics');
  await visit.expectText('No topics yet', 'main');
  await visit.shot('topics-empty');
  await visit.page.getByRole('button', { name: 'Create topic' }).first().click();
  await visit.page.fill('dialog input[name=name]', 'made.here');
  await visit.page.fill('dialog input[name=partitions]', '2');
  await button(visit, 'Preview', 'dialog').click();
  await visit.expectText(/kafka-topics[^]*--create/, 'dialog');
  await visit.axe('create topic');
  await visit.shot('topic-create');
  await button(visit, 'Create topic', 'dialog').click();
  await visit.page.waitForURL(/\/topics\/made\.here$/);
  await visit.expectText('2 partitions', 'main');
  // The same name again is refused in the cluster's words.
  await visit.go('/topics?create=1');
  visit.allow(/Failed to load resource.*status of 4/);
  await visit.page.fill('dialog input[name=name]', 'made.here');
  await button(visit, 'Preview', 'dialog').click();
  await visit.expectText('TOPIC_ALREADY_EXISTS', 'dialog');
  // More partitions.
  await visit.go('/topics/made.here?do=extend');
  await button(visit, 'Preview', 'dialog').click();
  await visit.expectText('From 2 to 3', 'dialog');
  await button(visit, 'Add partitions', 'dialog').click();
  await visit.expectText('3 partitions', 'main');
  // Configs: the difference before, the new value after.
  await visit.go('/topics/made.here/configs?find=retention.ms');
  await visit.page.getByRole('button', { name: 'Edit retention.ms' }).click();
  await visit.page.getByRole('textbox', { name: 'retention.ms' }).fill('86400000');
  await button(visit, 'Review').click();
  await visit.expectText(/604800000[^]*86400000[^]*kafka-configs/, 'dialog');
  await visit.axe('config diff');
  await visit.shot('config-diff');
  await button(visit, 'Apply', 'dialog').click();
  await visit.page.getByRole('button', { name: 'Reset retention.ms' }).waitFor();
  await visit.expectText('86400000', 'main');
  // Deleting wants the name.
  await visit.go('/topics/made.here?do=delete');
  const gone = button(visit, 'Delete topic', 'dialog');
  await visit.page.locator('dialog [data-confirm]').fill('made.her');
  want(await gone.isDisabled(), 'nothing to happen before the name is typed');
  await visit.axe('delete topic');
  await visit.shot('topic-delete');
  await visit.page.locator('dialog [data-confirm]').fill('made.here');
  await gone.click();
  await visit.page.waitForURL(/\/topics$/);
  await visit.expectText('No topics yet', 'main');
  // Every change is on the record.
  await visit.go('/audit');
  const record = await visit.expectText(/made\.here/, 'main');
  for (const action of ['topic.create', 'topic.delete']) want(record.includes(action), `${action} on the record:\n${record}`);
  await visit.end();
}

export async function messages(browser, s) {
  const values = Array.from({ length: 400 }, (_, i) => ({ partition: i % 2, key: `key-${i}`, value: JSON.stringify({ n: i, big: 1, text: i === 123 ? 'needle' : 'hay' }).replace('"big":1', `"big":9007199254740993${i}`), headers: i === 200 ? { trace: 'header-needle' } : {} }));
  await produce(s.bootstrap, s.topic, values);
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password, `/topics/${s.topic}/messages`);
  const rows = visit.page.locator('table.messages tbody tr:not(.detail)');
  await rows.nth(49).waitFor();
  want(await rows.count() === 50, 'a page of 50');
  await visit.expectText('"n": 399', 'table.messages');
  await button(visit, 'Older').click();
  await rows.nth(99).waitFor();
  want(await rows.count() === 100, 'the next page below the first');
  // By text, in values and in headers.
  const search = visit.page.getByRole('searchbox', { name: 'Text in key, value or header' });
  for (const [text, found] of [['needle"', '"n": 123'], ['header-needle', '"n": 200'], ['key-77', '"n": 77,']]) {
    await search.fill(text);
    await visit.expectText(found, 'table.messages');
    want(await rows.count() === 1, `only one record with ${text}`);
  }
  await search.fill('');
  // Numbers keep all their digits.
  await visit.go(`/topics/${s.topic}/messages?q=needle%22`);
  await rows.first().getByRole('button').click();
  await visit.expectText('9007199254740993123', 'tr.detail');
  await visit.shot('message');
  // By expression.
  await visit.go(`/topics/${s.topic}/messages`);
  await visit.page.fill('#m-filter', 'partition == 1 && offset == 10');
  await button(visit, 'Apply').click();
  await visit.expectText('"n": 21,', 'table.messages');
  want(await rows.count() === 1, 'one record for the expression');
  await visit.page.fill('#m-filter', 'no_such_variable ==');
  await button(visit, 'Apply').click();
  await visit.page.waitForSelector('#m-filter-help [role=alert]');
  // By offset.
  await visit.go(`/topics/${s.topic}/messages?partition=0&from=offset&offset=150`);
  await visit.expectText('"n": 300,', 'table.messages');
  // Export has what is shown.
  const download = visit.page.waitForEvent('download');
  await button(visit, 'Options').click();
  await visit.page.getByRole('link', { name: 'Export JSON Lines' }).click();
  want((await (await download).path()) !== null, 'an export');
  // Live: what is written now appears.
  await visit.go(`/topics/${s.topic}/messages?live=1`);
  await visit.expectText('Live', '.scan-state');
  let appeared = false;
  for (let i = 0; i < 20 && !appeared; i += 1) {
    await produce(s.bootstrap, s.topic, [{ key: 'live', value: `while you watch ${i}` }]);
    appeared = await visit.page.waitForFunction(() => /while you watch/.test(document.querySelector('table.messages')?.innerText ?? ''), null, { timeout: 3000 }).then(() => true, () => false);
  }
  want(appeared, 'a record that is written while one watches');
  await visit.axe('live tail');
  await visit.shot('tail');
  await button(visit, 'Stop following').click();
  // Writing one, and one without a value.
  await button(visit, 'Produce').click();
  await visit.page.getByLabel('Key is').selectOption('text');
  await visit.page.fill('dialog input[name=key]', 'from-the-browser');
  await visit.page.fill('dialog textarea[name=value]', '{"hello":"<b>world</b>"}');
  await visit.page.fill('dialog textarea[name=headers]', 'source: console');
  await visit.axe('produce');
  await visit.shot('produce');
  await visit.page.locator('dialog button.primary').click();
  await visit.expectText('1 record produced', 'dialog');
  await visit.page.keyboard.press('Escape');
  await visit.go(`/topics/${s.topic}/messages?q=from-the-browser`);
  await visit.expectText('<b>world</b>', 'table.messages');
  await visit.end();
}

export async function groups(browser, s) {
  await produce(s.bootstrap, s.topic, Array.from({ length: 60 }, (_, i) => ({ partition: i % 2, value: `v${i}` })));
  const member = await consume(s.bootstrap, { topic: s.topic, groupId: 'readers', clientId: 'reader-1', count: 60 });
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password, '/groups');
  try {
    await visit.expectText('readers', 'main');
    await visit.page.getByRole('link', { name: 'readers' }).click();
    await visit.expectText('reader-1', 'main');
    await visit.shot('group');
    // While somebody reads, nothing can be reset.
    await button(visit, 'Reset offsets').click();
    await visit.expectText('active member', 'dialog');
    await button(visit, 'Preview', 'dialog').click();
    await visit.expectText('Not possible now', 'dialog');
    await visit.axe('reset, blocked');
    await visit.page.keyboard.press('Escape');
  } finally { await member.stop(); }
  await visit.go('/groups/readers');
  await visit.expectText('Empty', 'main');
  await button(visit, 'Reset offsets').click();
  await visit.page.getByLabel('To', { exact: true }).selectOption('offset');
  await visit.page.getByLabel('Offset', { exact: true }).fill('10');
  await button(visit, 'Preview', 'dialog').click();
  await visit.expectText(/kafka-consumer-groups[^]*--reset-offsets/, 'dialog');
  await visit.expectText('2 partitions would change', 'dialog');
  await visit.axe('reset preview');
  await visit.shot('group-reset');
  await visit.page.locator('dialog [data-confirm]').fill('readers');
  await button(visit, 'Reset offsets', 'dialog').click();
  await visit.page.waitForSelector('dialog[open]', { state: 'detached' });
  await visit.expectText(/were reset/, 'body');
  await visit.page.waitForFunction(() => [...document.querySelectorAll('main td[data-label=Committed]')].every((c) => c.innerText === '10') && document.querySelectorAll('main td[data-label=Committed]').length === 2);
  await visit.expectText('40', 'main .stats');
  await visit.go('/groups/readers?do=delete');
  await visit.page.locator('dialog [data-confirm]').fill('readers');
  await button(visit, 'Delete group', 'dialog').click();
  await visit.page.waitForURL(/\/groups$/);
  await visit.expectText('No consumer groups yet', 'main');
  await visit.end();
}

/** A broker of several gives everything away, and takes again. */
export async function drain(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.username, s.password, `/brokers/${s.broker}`);
  await visit.expectText(`Broker ${s.broker}`, 'main h1');
  await button(visit, 'Drain').click();
  await visit.page.locator('dialog [data-confirm]').fill(String(s.broker));
  await visit.axe('drain');
  await visit.shot('drain');
  await button(visit, 'Drain', 'dialog').click();
  await visit.expectText('Drained: it can be stopped', 'main');
  await visit.shot('drained');
  await visit.go('/brokers');
  await visit.expectText('Draining', 'main');
  await visit.go(`/brokers/${s.broker}`);
  await button(visit, 'Undrain').click();
  await button(visit, 'Drain').waitFor();
  await visit.end();
}
