// What all pages share: keys, and buttons inside HTML, say a word to the page (its TextInput named "heard"); some keys go to
// another address; what is chosen is written into this one. Nothing else of ours runs in the browser but small callbacks.
(() => {
  const keys = JSON.parse(document.getElementById('keys').textContent);
  let count = 0;
  const say = (word) => {
    for (const d of Bokeh.documents) { const m = d.get_model_by_name('heard'); if (m) m.value = word + '|' + (++count); }
  };
  const typing = (e) => { const n = e.composedPath()[0]; return n && /^(INPUT|TEXTAREA|SELECT)$/.test(n.tagName || '')
    && !/^(checkbox|radio|range|button)$/.test(n.type || ''); };
  // The cases as the list last showed them, by run, in this tab; the next case is the next of them, seen in the same way.
  const order = (run) => location.pathname.split('/')[1] + '/' + run;
  const KEPT = ['map', 'fade', 'layers', 'colours', 'beside'];
  const step = (href, by) => {
    const u = new URL(href, location.href), here = new URL(location.href).searchParams;
    for (const name of KEPT) if (here.has(name)) u.searchParams.set(name, here.get(name));
    const cases = JSON.parse(sessionStorage.getItem(order(here.get('run'))) || '[]');
    const at = cases.indexOf(Number(here.get('case')));
    if (at >= 0) u.searchParams.set('case', cases[(at + by + cases.length) % cases.length]);
    return u.href;
  };
  let later; const pending = {};
  window.atlas = {
    listed: (run, cases) => sessionStorage.setItem(order(run), JSON.stringify(cases)),
    chosen: (w) => { const v = w.active ?? w.value; return Array.isArray(v) ? v.join(',')
      : typeof v === 'number' ? v.toFixed(w.step < 0.01 ? 3 : 2) : String(v ?? ''); },
    // Bokeh gives a slider's handles no name for a screen reader.
    named: () => { for (const d of Bokeh.documents) for (const m of d._all_models.values()) if (/Slider$/.test(m.type))
      for (const handle of Bokeh.index.find_one(m)?.shadow_el.querySelectorAll('[role=slider]') ?? [])
        handle.setAttribute('aria-label', m.title); },
    remember: (given) => { Object.assign(pending, given); clearTimeout(later); later = setTimeout(() => {
      const u = new URL(location.href);
      for (const [name, v] of Object.entries(pending)) v === 'all' ? u.searchParams.delete(name) : u.searchParams.set(name, v);
      history.replaceState(null, '', u); }, 250); },
  };
  document.addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey || typing(e)) return;
    if (keys[e.key]) { location.href = e.key === 'n' ? step(keys.n, 1) : e.key === 'p' ? step(keys.p, -1) : keys[e.key]; return; }
    if (e.key.length === 1) say('key:' + e.key);
  });
  document.addEventListener('click', (e) => {
    for (const n of e.composedPath()) if (n.dataset && n.dataset.say) { e.preventDefault(); say(n.dataset.say); return; }
  });
  // The slide's first picture stands there until Bokeh shows the same, or somebody moves.
  const first = document.getElementById('first');
  if (first) {
    const gone = () => first.remove(), since = performance.now();
    const look = () => {
      const stage = window.Bokeh?.documents[0]?.get_model_by_name('stage'), view = stage && Bokeh.index.find_one(stage);
      const tiles = view && stage.renderers.find((one) => one.type === 'TileRenderer');
      if (tiles && view.views.find_one(tiles)?.has_finished() || performance.now() - since > 20000) gone();
      else if (first.isConnected) setTimeout(look, 30);
    };
    for (const act of ['pointerdown', 'wheel', 'keydown']) addEventListener(act, gone, {once: true, capture: true});
    look();
  }
  document.getElementById('shade').addEventListener('click', (e) => {
    e.preventDefault();
    const dark = !document.documentElement.classList.contains('dark');
    document.cookie = 'shade=' + (dark ? 'dark' : 'light') + ';path=/;max-age=31536000;samesite=strict';
    location.reload();
  });
})();
