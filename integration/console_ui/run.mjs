// node run.mjs SCENARIO SETTINGS: runs one scenario in a browser; SETTINGS is JSON. Prints what it did; the exit code is 0 only if all of
// it went well. See the Rust side, integration/console_ui.rs, for who starts what.
import { launch } from './browser.mjs';

const [name, text] = process.argv.slice(2);
const settings = JSON.parse(text ?? '{}');
const scenarios = { ...(await import('./signing_in.mjs')), ...(await import('./pages.mjs')), ...(await import('./work.mjs')), ...(await import('./outages.mjs')) };
if (typeof scenarios[name] !== 'function') {
  console.error(`no scenario ${name}: ${Object.keys(scenarios).join(', ')}`);
  process.exit(2);
}
const browser = await launch();
try {
  await scenarios[name](browser, settings);
  console.log(`${name}: done`);
} catch (error) {
  console.error(`${name}: ${error.stack ?? error}`);
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    console.error(`${page.url()} shows:\n${(await page.locator('body').innerText().catch(() => '')).slice(0, 3000)}`);
    if (settings.shots) await page.screenshot({ path: `${settings.shots}/failed-${name}.png` }).catch(() => {});
  }
  process.exitCode = 1;
} finally {
  await browser.close();
}
