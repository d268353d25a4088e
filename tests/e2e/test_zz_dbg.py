import sys, base64, tempfile, time
sys.path.insert(0,'/work/main/tests/e2e')
import pytest, pathlib
import test_dashboard as T
from test_dashboard import *
def shot(page,name):
    data=page.call('Page.captureScreenshot')['data']; Path(f'/tmp/shots/{name}.png').write_bytes(base64.b64decode(data))
def test_dbg(house, tmp_path):
    with browser(tmp_path,*STAY_HOME) as page:
        page.open(setup_page(f"http://127.0.0.1:{house.control}/ui/", house, "wrong"))
        page.shows("Wrong password")
        page.run("history.replaceState(null, '', location.pathname + '#/setup')")
        for field, text in (('input[placeholder="9090"]', str(house.control)), ("input[type=password]", SECRET)):
            page.click(f"css={field}")
            page.run("document.activeElement.select()")
            page.call("Input.insertText", text=text)
        shot(page,'d1')
        time.sleep(2)
        shot(page,'d2')
        page.click("Submit")
        time.sleep(1); shot(page,'d3'); print(page.run('location.href'), page.text())
        page.open('about:blank')
        page.open(setup_page(f"http://127.0.0.1:{house.control}/ui/", house, SECRET))
        page.becomes("location.hash", "#/proxies")
        page.click("css=[data-group-name=Fastest] .latency-tag")
        time.sleep(2); shot(page,'d4'); print(page.run("document.querySelector('[data-group-name=Fastest]').outerHTML"))
        for n,p in house.gateway.api('/proxies')['proxies'].items(): print(n,p['history'],p['extra'], p.get('testUrl'),p.get('now'))
