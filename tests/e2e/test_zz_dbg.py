import base64, time
from test_dashboard import *
def shot(page,name):
    data=page.call('Page.captureScreenshot')['data']; Path(f'/tmp/shots/{name}.png').write_bytes(base64.b64decode(data))
def test_dbg(house, page):
    orig=page._on_event; reqs={}
    def ev(m):
        me=m.get('method'); p=m.get('params',{})
        if me=='Network.requestWillBeSent' and str(house.control) in p['request']['url'] and '/ui/' not in p['request']['url']: reqs[p['requestId']]=p['request']['method']+' '+p['request']['url'].split(str(house.control))[-1]+' '+p['request'].get('postData','')[:200]
        elif me=='Network.responseReceived' and p['requestId'] in reqs: print('   ', p['response']['status'], reqs[p['requestId']])
        elif me=='Runtime.exceptionThrown': print('EXC', json.dumps(p)[:600])
        orig(m)
    page._on_event=ev
    page.call('Network.enable'); page.call('Runtime.enable')
    def settle(n=1):
        end=time.monotonic()+n
        while time.monotonic()<end: page.run('1'); time.sleep(.05)
    turn_to(page,'settings'); settle()
    for b in ('Flush DNS cache','Flush fake IP','Update GEO database','Restart core','Update configs'):
        print(b); page.click(f'css=button[aria-label="{b}"]'); settle(); print('      says:', page.text()[-160:].replace('\n','|')); shot(page,'k_'+b.replace(' ','_'))
        page.call('Input.dispatchKeyEvent',type='keyDown',key='Escape',code='Escape',windowsVirtualKeyCode=27); settle(.5)
    print(page.run("document.activeElement.outerHTML.slice(0,300)"))
    page.run("location.reload()"); settle(2)
    print(page.run("[...document.querySelectorAll('input.toggle')].map(e=>e.parentElement.outerHTML.slice(0,200)).join('\\n')"))
    for i in (0,1):
        page.run(f"document.querySelectorAll('input.toggle')[{i}].click()"); settle(); print('      says:', page.text()[-160:].replace('\n','|')); shot(page,f'tog{i}')
    print(page.run("document.querySelector('button[aria-label=\"DNS query\"]').closest('form').outerHTML")[:1500])
    page.click('css=form input'); page.call('Input.insertText',text='plain.test'); page.click('css=button[aria-label="DNS query"]'); settle(); print(page.text()[-300:]); shot(page,'dns')
    turn_to(page,'rules'); page.click('Rule provider'); settle(.5); page.run("[...document.querySelectorAll('button')].pop().click()"); settle(); shot(page,'rp'); 
    turn_to(page,'proxies'); page.click('Proxy provider'); settle(.5); shot(page,'pp')
    for sel in ("button",): 
        for i in range(page.run("document.querySelectorAll('.collapse-motion-header button, .collapse button').length")):
            page.run(f"document.querySelectorAll('.collapse-motion-header button, .collapse button')[{i}].click()"); settle()
    page.run("location.hash='#/overview'"); settle(2); shot(page,'ov'); print(page.text())
