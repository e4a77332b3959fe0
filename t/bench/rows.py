"""What is measured: the rows of the table, and series for the pictures."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A server and the load on it."""

    server: str                     # a function of servers.py
    load: str                       # derpload's arguments
    tls: bool = True
    more: tuple = ()                # further arguments of that function


@dataclass
class Row:
    name: str
    text: str
    metric: str                     # derpload's name for it
    unit: str
    cases: dict                     # by column
    limits: dict = field(default_factory=dict)  # column: at most so many times
    most: float = None              # at most this
    group: str = 'table'
    repeat: int = None              # unless it is to be the usual


COLUMNS = ('floor', 'derper', 'base', 'ngx_derp')


def all_three(load, tls=True):
    return {
        'floor': Case('floor', load, tls),
        'derper': Case('derper', load, tls),
        'ngx_derp': Case('nginx', load, tls),
    }


def both(load, tls=True):
    return {
        'derper': Case('derper', load, tls),
        'ngx_derp': Case('nginx', load, tls),
    }


def against(load, base, tls=True):
    return {
        'base': Case('nginx', base, tls),
        'ngx_derp': Case('nginx', load, tls),
    }


def spread(load, workers, tls=True):
    """Over workers, against one, on the same core."""

    return {
        'base': Case('nginx', load, tls),
        'ngx_derp': Case('nginx', load, tls, (('workers', workers),)),
    }


def packets(name, text, load, tls=True, **limits):
    return Row(name, text, 'cpu_us_per_pkt', 'us a packet',
               all_three(load, tls), limits)


def same_cipher():
    cases = all_three('-n 10 -s 1400')
    cases['floor'] = Case('floor', '-n 10 -s 1400', True,
                          (('cipher', 'TLS_AES_128_GCM_SHA256'),))

    return Row('cipher', 'TLS, 10 pairs, 1400 bytes, floor with AES-128 too',
               'cpu_us_per_pkt', 'us a packet', cases)


def word(tls):
    return 'TLS' if tls else 'plain'


def suffix(tls):
    return '' if tls else '-plain'


TABLE = [
    packets('tls', 'TLS, 10 pairs, 1400 bytes', '-n 10 -s 1400',
            floor=1.15, derper=0.40),
    same_cipher(),
    packets('plain', 'plain, 10 pairs, 1400 bytes', '-n 10 -s 1400', False,
            floor=1.3, derper=0.17),
    packets('small', 'TLS, 10 pairs, 64 bytes', '-n 10 -s 64', floor=1.3),
    packets('many', 'TLS, 100 pairs, 1400 bytes', '-n 100 -s 1400',
            floor=1.15),
    packets('large', 'TLS, 4 pairs, 65536 bytes', '-n 4 -s 65536', floor=1.1),
    packets('single', 'TLS, 1 pair, 1400 bytes', '-n 1 -s 1400', floor=1.1),

    Row('open', 'TLS, 10 pairs, 8000 packets/s each: p99', 'p99_us', 'us',
        all_three('-n 10 -s 1400 -r 8000'), {'derper': 0.15}),
    Row('delivered', 'the same: not delivered', 'lost_pct', '%',
        all_three('-n 10 -s 1400 -r 8000'), most=0),

    Row('workers', 'TLS, 50 pairs across 2 workers, against 1',
        'cpu_us_per_pkt', 'us a packet', spread('-n 50 -s 1400 -R', 2),
        {'base': 1.3}),
    Row('workers-plain', 'plain, the same', 'cpu_us_per_pkt', 'us a packet',
        spread('-n 50 -s 1400 -R', 2, False), {'base': 1.3}),

    Row('memory', 'TLS, idle client: memory', 'kib_per_idle', 'KiB',
        both('-i 5000 -d 0'), most=16.5),
    Row('memory-plain', 'plain, idle client: memory', 'kib_per_idle', 'KiB',
        both('-i 5000 -d 0', False), most=1),
    Row('login', 'TLS, login', 'login_cpu_us', 'us',
        all_three('-i 5000 -d 0'), {'derper': 0.5}),
    Row('login-plain', 'plain, login', 'login_cpu_us', 'us',
        all_three('-i 5000 -d 0', False), {'derper': 0.5}),

    Row('idle', 'TLS, 100 pairs beside 10,000 idle clients, against none',
        'cpu_us_per_pkt', 'us a packet',
        against('-n 100 -s 1400 -i 10000', '-n 100 -s 1400'), {'base': 1.15}),
    Row('idle-plain', 'plain, the same', 'cpu_us_per_pkt', 'us a packet',
        against('-n 100 -s 1400 -i 10000', '-n 100 -s 1400', False),
        {'base': 1.15}),
    Row('rest', 'TLS, 10,000 idle clients: CPU', 'rest_cpu_pct',
        '% of a core', both('-i 10000 -d 65'), most=1, repeat=1),
] + [
    Row(f'churn{suffix(tls)}{"-watched" if watchers else ""}',
        f'{word(tls)}, connect, login and leave, {watchers} watchers',
        'cycle_cpu_us', 'us', both(f'-c -W {watchers}', tls))
    for tls in (True, False) for watchers in (0, 5)
] + [
    Row('flood', 'plain, a watcher is told of 10,000 clients', 'told_cpu_us',
        'us a client', both('-i 10000 -W 20 -d 0', False)),
]

SERIES = [
    Row(f'rate-{rate}', f'TLS, 10 pairs, {rate} packets/s each', 'p99_us',
        'us', all_three(f'-n 10 -s 1400 -r {rate}'), group='rate')
    for rate in (1000, 2000, 4000, 6000, 8000, 10000, 12000, 14000, 16000,
                 20000, 24000, 28000)
] + [
    Row(f'size-{size}{suffix(tls)}', f'{word(tls)}, 10 pairs, {size} bytes',
        'cpu_us_per_pkt', 'us a packet', all_three(f'-n 10 -s {size}', tls),
        group='size')
    for tls in (True, False) for size in (16, 256, 1400, 4096, 16384, 65536)
] + [
    Row(f'pairs-{n}{suffix(tls)}', f'{word(tls)}, {n} pairs, 1400 bytes',
        'cpu_us_per_pkt', 'us a packet', all_three(f'-n {n} -s 1400', tls),
        group='pairs')
    for tls in (True, False) for n in (1, 3, 10, 30, 100, 300, 1000)
] + [
    Row(f'clients-{n}', f'TLS, 100 pairs beside {n} idle clients',
        'cpu_us_per_pkt', 'us a packet',
        {'ngx_derp': Case('nginx', f'-n 100 -s 1400 -i {n}')}, group='clients')
    for n in (1000, 2000, 5000, 10000)
] + [
    Row(f'spread-{n}', f'TLS, 50 pairs across {n} workers',
        'cpu_us_per_pkt', 'us a packet', spread('-n 50 -s 1400 -R', n),
        group='spread')
    for n in (2, 4, 8)
]

ROWS = TABLE + SERIES


def select(words):
    """The rows of these names or groups, in their order."""

    chosen = [row for row in ROWS
              if row.name in words or row.group in words or 'all' in words]
    known = ({row.name for row in ROWS} | {row.group for row in ROWS}
             | {'all'})

    unknown = set(words) - known
    if unknown:
        raise ValueError(f'no such rows: {" ".join(sorted(unknown))}')

    return chosen
