"""A hub on this machine: the part of the Hugging Face Hub's API that downloads need, over files in memory or on disk, with faults on demand.

Large files (.safetensors, .gguf, .bin) answer with a redirect to a second port, as the hub's do to its content network; the others come directly.
"""
import hashlib, json, re, threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = '.safetensors', '.gguf', '.bin'


class File:
    def __init__(self, source):
        self.path = source if isinstance(source, Path) else None
        self.data = None if self.path else source if isinstance(source, bytes) else source.encode()
        self.size = self.path.stat().st_size if self.path else len(self.data)
        self.sha256 = hashlib.sha256(self.read()).hexdigest()
        self.blob = hashlib.sha1(b'blob %d\0' % self.size + self.read()).hexdigest()

    def read(self): return self.path.read_bytes() if self.path else self.data


class Repo:
    def __init__(self, files, gated=False, private=False):
        self.files = {n: File(f) for n, f in files.items()}
        self.gated, self.private = gated, private
        self.commit = hashlib.sha1(repr(sorted((n, f.blob) for n, f in self.files.items())).encode()).hexdigest()

    def listing(self, name):
        large = lambda n, f: {'lfs': {'sha256': f.sha256, 'size': f.size, 'pointerSize': 134}} if n.endswith(LARGE) else {}
        return dict(_id='0'*24, id=name, modelId=name, sha=self.commit, private=self.private, gated='manual' if self.gated else False, disabled=False, tags=[],
                    downloads=0, likes=0, siblings=[dict(rfilename=n, size=f.size, blobId=f.blob, **large(n, f)) for n, f in self.files.items()])


class Hub:
    "`with Hub({'org/name': {'config.json': b'...'}}) as hub:` serves at `hub.url`. `hub.fault` sees each request first and may answer it."
    token = 'hf_good'

    def __init__(self, repos=None):
        self.repos = {n: r if isinstance(r, Repo) else Repo(r) for n, r in (repos or {}).items()}
        self.requests, self.fault, self.cut, self.lie, self.closed = [], None, {}, {}, False

    def __enter__(self):
        self.servers = [ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (Handler,), dict(hub=self, port=i))) for i in (0, 1)]
        for s in self.servers: threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
        self.url, self.cdn = (f'http://127.0.0.1:{s.server_port}' for s in self.servers)
        return self

    def __exit__(self, *_):
        self.closed = True
        for s in self.servers: s.shutdown(); s.server_close()

    def count(self, kind, text=''):
        "How many requests of a kind ('GET', 'HEAD') had this in their path."
        return sum(k == kind and text in p for k, p, _ in self.requests)

    def fail(self, status, times=1, where='', **headers):
        "Answer the next `times` requests whose path has `where` in it with a status."
        left = Counter(n=times)
        def fault(h, kind, path):
            if where not in path or left['n'] <= 0: return False
            left['n'] -= 1
            h.reply(status, b'{}', **headers)
            return True
        self.fault = fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_GET(self): self.answer('GET')
    def do_HEAD(self): self.answer('HEAD')

    def reply(self, status, body=b'', **headers):
        self.send_response(status)
        for k, v in {'Content-Length': len(body), **{k.replace('_', '-'): v for k, v in headers.items()}}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def refuse(self, status, code, text): self.reply(status, b'{}', X_Error_Code=code, X_Error_Message=text)

    def answer(self, kind):
        self.close_connection = self.close_connection or self.hub.closed
        if self.hub.closed: return
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((kind, path, dict(self.headers)))
        if self.hub.fault and self.hub.fault(self, kind, path): return
        if m := re.fullmatch(r'/cdn/([0-9a-f]{64})', path): return self.content(next(f for r in self.hub.repos.values() for f in r.files.values() if f.sha256 == m[1]), m[1])
        m = re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/revision/(.+))?', path) or re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        said = self.headers.get('Authorization', '').removeprefix('Bearer ')
        if said and said != self.hub.token: return self.refuse(401, '', 'Invalid credentials in Authorization header')
        repo = self.hub.repos.get(m[1]) if m else None
        if repo is None or repo.private and not said: return self.refuse(404 if said else 401, 'RepoNotFound', 'Repository not found')
        if m[2] not in (None, 'main', repo.commit): return self.refuse(404, 'RevisionNotFound', f'Invalid rev id: {m[2]}')
        if len(m.groups()) == 2: return self.reply(200, json.dumps(repo.listing(m[1])).encode(), Content_Type='application/json')
        if repo.gated: return self.refuse(403 if said else 401, 'GatedRepo', f'Access to model {m[1]} is restricted.')
        file = repo.files.get(m[3])
        if file is None: return self.refuse(404, 'EntryNotFound', 'Entry not found')
        if not m[3].endswith(LARGE): return self.content(file, m[3], X_Repo_Commit=repo.commit, ETag=f'"{file.blob}"')
        self.reply(302, X_Repo_Commit=repo.commit, X_Linked_Etag=f'"{file.sha256}"', X_Linked_Size=file.size, Location=f'{self.hub.cdn}/cdn/{file.sha256}')

    def content(self, file, key, **headers):
        data = self.hub.lie.get(key, file.read())
        start = int(m[1]) if (m := re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))) else 0
        if start: headers |= {'Content-Range': f'bytes {start}-{len(data) - 1}/{len(data)}'}
        self.send_response(206 if start else 200)
        for k, v in {'Content-Length': len(data) - start, 'Accept-Ranges': 'bytes', **{k.replace('_', '-'): v for k, v in headers.items()}}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command == 'HEAD': return
        cuts = self.hub.cut.get(key)
        self.wfile.write(data[start:cuts.pop(0)] if cuts else data[start:])
        self.close_connection = cuts is not None
