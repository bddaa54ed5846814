// Runs before anything is painted, so that a dark page never flashes white. Not a module: modules come after the parser.
(function () {
  var wanted = 'auto';
  try { wanted = localStorage.getItem('kafscale.theme') || 'auto'; } catch (e) { /* storage is forbidden: follow the system */ }
  var dark = wanted === 'dark' || (wanted !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.documentElement.setAttribute('data-theme', dark ? 'dark' : 'light');
})();
