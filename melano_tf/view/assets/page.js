// What all pages share: keys, and buttons inside HTML, say a word to the page (its TextInput named "heard"); some keys go to
// another address. Nothing else of ours runs in the browser but small callbacks.
(() => {
  const keys = JSON.parse(document.getElementById('keys').textContent);
  let count = 0;
  const say = (word) => {
    for (const d of Bokeh.documents) { const m = d.get_model_by_name('heard'); if (m) m.value = word + '|' + (++count); }
  };
  const typing = (e) => { const n = e.composedPath()[0]; return n && /^(INPUT|TEXTAREA|SELECT)$/.test(n.tagName || '')
    && !/^(checkbox|radio|range|button)$/.test(n.type || ''); };
  document.addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey || typing(e)) return;
    if (keys[e.key]) { location.href = keys[e.key]; return; }
    if (e.key.length === 1) say('key:' + e.key);
  });
  document.addEventListener('click', (e) => {
    for (const n of e.composedPath()) if (n.dataset && n.dataset.say) { e.preventDefault(); say(n.dataset.say); return; }
  });
  document.getElementById('shade').addEventListener('click', (e) => {
    e.preventDefault();
    const dark = !document.documentElement.classList.contains('dark');
    document.cookie = 'shade=' + (dark ? 'dark' : 'light') + ';path=/;max-age=31536000;samesite=strict';
    location.reload();
  });
})();
