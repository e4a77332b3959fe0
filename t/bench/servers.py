"""The servers that are measured, and how they are started and stopped."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

OUT = 'build/bench'
CERT = f'{OUT}/cert.pem'
KEY = f'{OUT}/cert.key'
MESH_KEY = 'b5' * 32
AES128 = 'TLS_AES_128_GCM_SHA256'

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU = CPUS[0]
LOAD_CPU = CPUS[-1]

_port = 17100


class Unavailable(Exception):
    """A server that cannot be had here, and why."""


class Server:
    """A server process and its children, on one core."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL,
            stdout=open(f'{OUT}/{os.path.basename(command[0])}.log', 'a'),
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}))

    def pids(self):
        pid = self.process.pid

        with open(f'/proc/{pid}/task/{pid}/children') as f:
            return [str(pid)] + f.read().split()

    def wait(self, port, children=0):
        """Until it listens, and has so many children: nginx listens first."""

        for _ in range(200):
            if self.process.poll() is not None:
                break

            try:
                socket.create_connection(('127.0.0.1', port), 1).close()

                if len(self.pids()) > children:
                    return self

            except OSError:
                pass

            time.sleep(0.05)

        self.stop()
        raise Unavailable(f'{self.process.args[0]} does not listen, '
                          f'see its log in {OUT}')

    def stop(self):
        self.process.terminate()

        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def next_port():
    """One that no connection of the last server is left on."""

    global _port
    _port = _port + 1 if _port < 17990 else 17101

    return _port


def floor(port, tls=True, cipher=None):
    command = [f'{OUT}/floor', str(port)]

    if tls:
        command += [CERT, KEY] + ([cipher] if cipher else [])

    return Server(command).wait(port)


def derper(port, tls=True):
    if not os.path.exists(f'{OUT}/derper'):
        raise Unavailable('there is no derper')

    command = [f'{OUT}/derper', '-a', f'127.0.0.1:{port}', '-http-port', '-1',
               '-stun=false', '-c', f'{OUT}/derper.json',
               '-hostname', '127.0.0.1', '-mesh-psk-file', f'{OUT}/mesh.key']

    if tls:
        command += ['-certmode', 'manual', '-certdir', OUT]

    return Server(command, {'GOMAXPROCS': '1'}).wait(port)


class Several:
    """Servers that are measured together."""

    def __init__(self):
        self.servers = []

    def pids(self):
        return [pid for server in self.servers for pid in server.pids()]

    def stop(self):
        for server in self.servers:
            server.stop()


def apart(port, tls=True, workers=1):
    """As many nginx of one worker each, that know nothing of each other."""

    several = Several()

    try:
        for n in range(workers):
            several.servers.append(
                nginx(port, tls, shared=True, pid=f'nginx-{n}.pid'))
    except Unavailable:
        several.stop()
        raise

    return several


def nginx(port, tls=True, workers=1, mesh=None, zone='64m', shared=False,
          pid='nginx.pid'):
    """Of two relays, linked both ways by http or https, if that is said."""

    with open('t/bench/nginx.conf') as f:
        text = f.read()

    values = {
        'LOAD_MODULE': f'load_module {os.path.abspath(OUT)}/derp.so;'
                       if os.environ.get('DERP_MODULE') else '',
        'WORKERS': str(workers),
        'PID': pid,
        'ZONE': zone,
        'LISTEN': f'127.0.0.1:{port}' + (' ssl' if tls else '')
                  + (' reuseport' if shared or workers > 1 else ''),
        'TLS': tls_settings(),
        **mesh_settings(mesh),
    }

    for name, value in values.items():
        text = text.replace(f'@{name}@', value)

    with open(f'{OUT}/nginx/nginx.conf', 'w') as f:
        f.write(text)

    return Server([f'{OUT}/nginx/nginx', '-p', f'{OUT}/nginx/', '-c',
                   'nginx.conf']).wait(port, workers)


def mesh_settings(scheme):
    if scheme is None:
        return {'MESH': '', 'OTHER': '', 'LOCATION': ''}

    port = next_port()

    def mesh_with(uri):
        return (f'mesh_with {scheme}://127.0.0.1:{port}{uri};\n'
                f'mesh_ssl_trusted_certificate cert.pem;')

    other = f"""
    derp_relay other {{
        zone          64m;
        key_file      other.key;
        mesh_key_file mesh.key;
        {mesh_with('/derp')}
    }}

    server {{
        listen 127.0.0.1:{port} {'ssl' if scheme == 'https' else ''} reuseport;

        ssl_certificate     cert.pem;
        ssl_certificate_key cert.key;
        {tls_settings()}

        location /derp  {{ derp main; }}
        location /other {{ derp other; }}
    }}
"""

    return {'MESH': mesh_with('/other'), 'OTHER': other,
            'LOCATION': 'location /other { derp other; }'}


def takeover(port):
    """How long a relay is without a link when the worker that has it dies."""

    log = f'{OUT}/nginx/logs/error.log'
    start = os.path.getsize(log) if os.path.exists(log) else 0
    linked = re.compile(r' (\d+)#\d+: derp_relay "main" is linked to')

    def owners(count):
        for _ in range(20000):
            with open(log) as f:
                f.seek(start)
                found = linked.findall(f.read())

            if len(found) >= count:
                return found

            time.sleep(0.0005)

        raise Unavailable('there is no link')

    server = nginx(port, False, 2, 'http')

    try:
        owner = owners(1)[0]
        time.sleep(2)

        before = time.monotonic()
        os.kill(int(owner), signal.SIGKILL)
        owners(2)

        return {'takeover_ms': (time.monotonic() - before) * 1000,
                'others_cpu': 0}

    finally:
        server.stop()


def tls_settings():
    """What the example configuration says of TLS, but for its certificate."""

    with open('docs/examples/nginx.conf') as f:
        found = re.findall(r'^\s*(?:ssl_(?!certificate)|connection_pool)\w+\s[^;]*;', f.read(),
                           re.M)

    return '\n'.join(found)


def prepare():
    """Certificate, keys, and a copy of what is measured."""

    os.makedirs(f'{OUT}/nginx/logs', exist_ok=True)
    os.makedirs(f'{OUT}/nginx/temp', exist_ok=True)

    subprocess.run(
        ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
         'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30',
         '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1',
         '-keyout', KEY, '-out', CERT],
        check=True, stderr=subprocess.DEVNULL)

    # under the names that derper and nginx look for
    for suffix, source in (('crt', CERT), ('key', KEY)):
        shutil.copy(source, f'{OUT}/127.0.0.1.{suffix}')

    for name in (CERT, KEY):
        shutil.copy(name, f'{OUT}/nginx')

    for folder in (OUT, f'{OUT}/nginx'):
        with open(f'{folder}/mesh.key', 'w') as f:
            f.write(MESH_KEY + '\n')
        os.chmod(f'{folder}/mesh.key', 0o600)

    # a build in the meantime does not change what is measured
    shutil.copy(os.environ['NGINX_BINARY'], f'{OUT}/nginx/nginx')

    if os.environ.get('DERP_MODULE'):
        shutil.copy(os.environ['DERP_MODULE'], f'{OUT}/derp.so')


def build_derper():
    """Says why, if it cannot be built."""

    with open('t/interop/go.mod') as f:
        needed = re.search(r'^go ([\d.]+)', f.read(), re.M).group(1)

    environment = {**os.environ, 'GOTOOLCHAIN': 'local'}

    try:
        version = subprocess.run(['go', 'version'], env=environment, text=True,
                                 capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise Unavailable('there is no Go here') from None

    found = re.search(r'go([\d.]+)', version).group(1)

    def number(text):
        return [int(n) for n in text.split('.')]

    if number(found) < number(needed):
        raise Unavailable(f'it needs Go {needed}, this one is {found}')

    built = subprocess.run(
        ['go', 'build', '-o', os.path.abspath(f'{OUT}/derper'),
         'tailscale.com/cmd/derper'],
        cwd='t/interop', env=environment)

    if built.returncode != 0:
        raise Unavailable('it does not build')


def versions():
    def first_line(command):
        result = subprocess.run(command, capture_output=True, text=True,
                                check=False)
        return (result.stdout + result.stderr).strip()

    with open('t/interop/go.mod') as f:
        tailscale = re.search(r'tailscale.com (v[\d.]+)', f.read()).group(1)

    nginx_text = first_line([f'{OUT}/nginx/nginx', '-V'])
    # "built with …", then "running with …" if that is another
    openssl = re.findall(r'(?:built|running) with (OpenSSL [\w.]+)', nginx_text)
    processor = re.search(r'model name\s*: (.*)', open('/proc/cpuinfo').read())
    commit = first_line(['git', 'rev-parse', '--short', 'HEAD'])
    changed = first_line(['git', 'status', '--porcelain', 'src'])

    return {
        'machine': f'{processor.group(1) if processor else "unknown"}, '
                   f'{len(CPUS)} cores',
        'kernel': os.uname().release,
        'nginx': re.search(r'nginx/([\d.]+)', nginx_text).group(1),
        'openssl': openssl[-1] if openssl else 'unknown',
        'derper': tailscale if os.path.exists(f'{OUT}/derper') else None,
        'commit': commit + (' with changes' if changed else ''),
        'date': time.strftime('%Y-%m-%d'),
    }
