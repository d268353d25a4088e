"""The one page of an activation, and what a browser may do with it.

It is whole in itself: nothing is fetched from anywhere else, nothing it shows is taken for markup, and nobody frames
it.  It asks for no key: it shows what the machine asks for, and takes what the owner signed together with the code that
stands on the machine's terminal.  Then it shows whose signature that is, and asks once more.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
textarea, input { width: 100%; box-sizing: border-box; font: 13px/1.4 ui-monospace, monospace; padding: .4rem; }
input#code { width: 10rem; font-size: 1.1rem; }
button { font: inherit; padding: .4rem 1rem; margin-top: .6rem; }
img { width: 14rem; height: 14rem; display: block; }
dt { color: #666; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
#said { font-weight: 600; min-height: 1.5rem; }
"""

_SCRIPT: Final = """
const at = id => document.getElementById(id)
const show = (list, pairs) => {
  list.replaceChildren()
  for (const [name, value] of pairs) {
    const term = document.createElement('dt'), text = document.createElement('dd')
    term.textContent = name; text.textContent = value
    list.append(term, text)
  }
}
let owner = null
const forget = () => { owner = null; at('accept').hidden = true; show(at('found'), []) }
const send = async () => {
  at('said').textContent = ''
  const body = {code: at('code').value, membership: at('membership').value, owner}
  const reply = await fetch('activation', {method: 'POST', body: JSON.stringify(body)})
  const told = await reply.json()
  if (!reply.ok) { forget(); at('said').textContent = told.message; return }
  show(at('found'), [['zone', told.zone], ['name here', told.name], ['role', told.role],
                     ['owner', told.owner], ["the owner's key", told.key]])
  owner = told.key
  at('accept').hidden = told.done
  if (told.done) { at('said').textContent = 'This machine belongs to ' + told.zone + ' now.'; at('form').hidden = true }
}
const failed = fault => { at('said').textContent = 'The machine does not answer: ' + fault.message }
at('form').addEventListener('submit', event => { event.preventDefault(); forget(); send().catch(failed) })
at('accept').addEventListener('click', () => send().catch(failed))
at('file').addEventListener('change', async () => { at('membership').value = await at('file').files[0].text() })
fetch('request').then(reply => reply.json()).then(told => {
  show(at('machine'), [['name', told.name], ['key', told.key]])
  at('request').value = told.request
}).catch(failed)
"""

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Activate this machine</title>
<style>{style}</style>
<h1>Activate this machine</h1>
<dl id="machine"></dl>
<h2>1. Its owner signs this</h2>
<p>Where the owner's key is: <code>cyfs-gateway node sign FILE</code>. The key shown there has to be the one above.</p>
<textarea id="request" rows="5" readonly></textarea>
<img src="request.svg" alt="the request as a QR code">
<h2>2. This machine takes what was signed</h2>
<form id="form">
<p><label>What the owner signed <input type="file" id="file"></label></p>
<textarea id="membership" rows="5" required></textarea>
<p><label>The code on the machine's terminal<br><input id="code" autocomplete="off" required></label></p>
<button>Look whose it is</button>
</form>
<p id="said" role="status"></p>
<dl id="found"></dl>
<button id="accept" hidden>That is my owner: accept</button>
<script>{script}</script>
</html>
"""

PAGE: Final = _PAGE.format(style=_STYLE, script=_SCRIPT).encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; connect-src 'self'; img-src 'self'; style-src {_hash(_STYLE)};"
        f" script-src {_hash(_SCRIPT)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
