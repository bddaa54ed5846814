// Who gets in and who does not, and what they are told.
import { Visit, want } from './browser.mjs';

const REFUSED = /Failed to load resource.*status of (401|429)/;

/** Wrong password, lockout with a time, the way back to where one wanted to go, and out again. */
export async function signingIn(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.page.goto('/audit?q=topic');
  await visit.page.waitForURL(/\/login\?next=/);
  await visit.axe('login');
  await visit.shot('login');
  visit.allow(REFUSED);
  await visit.page.fill('#username', s.username);
  await visit.page.fill('#password', 'wrong');
  await visit.page.click('button:has-text("Sign in")');
  await visit.expectText('User name or password is wrong');
  await visit.axe('login, refused');
  await visit.page.fill('#password', s.password);
  await visit.page.keyboard.press('Enter');
  await visit.page.waitForURL(/\/audit\?q=topic$/);
  // No other site is a place to go on to.
  for (const next of ['//example.com/', 'https://example.com/', '/\\example.com', 'javascript:alert(5)']) {
    await visit.page.goto(`/login?next=${encodeURIComponent(next)}`);
    await visit.page.waitForSelector('main#main h1');
    want(new URL(visit.page.url()).origin === new URL(s.base).origin, `to stay on the site with next=${next}`);
  }
  const cookies = await visit.context.cookies();
  want(cookies.length > 0 && cookies.every((c) => c.httpOnly && c.sameSite === 'Strict'), 'cookies that scripts and other sites do not get');
  await visit.page.click('button[aria-label="Account"]');
  await visit.page.click('text=Sign out >> nth=0');
  await visit.page.waitForURL(/\/login/);
  want((await visit.page.request.get('/api/v1/topics')).status() === 401, 'the session to be over');
  await visit.end();
}

/** Too many attempts: the page says how long to wait, and the button waits, too. */
export async function lockout(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  visit.allow(REFUSED);
  await visit.page.goto('/login');
  await visit.page.fill('#username', s.username);
  for (let i = 0; i < 12; i += 1) {
    await visit.page.fill('#password', `wrong ${i}`);
    const answer = visit.page.waitForResponse((r) => r.url().endsWith('/auth/login'));
    await visit.page.keyboard.press('Enter');
    if ((await answer).status() === 429) break;
    await visit.page.waitForFunction(() => !document.querySelector('button.primary').disabled);
  }
  await visit.expectText(/Too many attempts[^]*try again in \d+ (s|min)/);
  want(await visit.page.locator('button:has-text("Sign in")').isDisabled(), 'a button that waits');
  await visit.axe('lockout');
  await visit.shot('lockout');
  await visit.end();
}

/** A console that nobody has given a login says so, and how to. */
export async function notConfigured(browser, s) {
  for (const theme of ['light', 'dark']) {
    const visit = await Visit.begin(browser, s.base, { theme, shots: s.shots });
    visit.allow(/Failed to load resource.*status of (401|503)/);
    await visit.page.goto('/');
    const text = await visit.expectText('Nobody can sign in yet');
    want(/KAFSCALE_UI_USERNAME/.test(text) && /KAFSCALE_UI_PASSWORD/.test(text), 'the names of both variables');
    want(await visit.page.locator('button:has-text("Sign in")').isDisabled(), 'no attempt to be possible');
    await visit.axe('not configured');
    await visit.shot('not-configured');
    await visit.end();
  }
}

/** A viewer sees everything and is offered nothing that changes. */
export async function viewer(browser, s) {
  const visit = await Visit.begin(browser, s.base, { shots: s.shots });
  await visit.signIn(s.viewer, s.viewerPassword, '/topics');
  want(await visit.page.locator('main button:has-text("Create topic")').first().isDisabled(), 'creating to be off');
  await visit.go(`/topics/${s.topic}`);
  for (const name of ['Add partitions', 'Delete records', 'Delete']) want(await visit.page.getByRole('button', { name, exact: true }).isDisabled(), `${name} to be off`);
  await visit.go(`/topics/${s.topic}/configs`);
  want(await visit.page.locator('main button:has-text("Edit")').count() === 0, 'no editing');
  await visit.end();
}
