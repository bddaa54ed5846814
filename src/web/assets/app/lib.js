// The libraries, in one place. Untrusted text is only ever a child or an attribute of `html`, never markup.
import { h, render, Fragment } from '../vendor/preact.js';
import htm from '../vendor/htm.js';

export const html = htm.bind(h);
export { h, render, Fragment };
export { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useId } from '../vendor/preact-hooks.js';
export { signal, computed, effect, batch } from '../vendor/signals.js';
