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


def packets(pairs, size, limit, tls=True):
    load = f'-n {pairs} -s {size}'

    return Row(f'packet-{pairs}-{size}{suffix(tls)}',
               f'{word(tls)}, {load}: CPU', 'cpu_us_per_pkt', 'us a packet',
               all_three(load, tls), {'floor': limit})


def delays(pairs, rate, limit):
    """An open loop: how late, and how many never."""

    load = f'-n {pairs} -s 1400 -r {rate}'
    name = f'late-{pairs}-{rate}'

    return [
        Row(name, f'TLS, {load}: p99', 'p99_us', 'us', all_three(load),
            {'derper': limit}),
        Row(f'{name}-lost', 'the same: not delivered', 'lost_pct', '%',
            all_three(load), most=0),
    ]


def across(pairs, size, tls=True):
    load = f'-n {pairs} -s {size} -R'

    return Row(f'across-{pairs}-{size}{suffix(tls)}',
               f'{word(tls)}, {load}: 2 workers against 1', 'cpu_us_per_pkt',
               'us a packet', spread(load, 2, tls), {'base': 1.15})


def logins(workers):
    """The floor is as many nginx of one worker each, which have nothing to tell
    each other: processes by turns on one core find its caches cold, and so cost
    more than one, whatever they do.  Sleeps have no such part, and no noise.
    """

    load = '-i 5000 -d 0'
    cases = {'floor': Case('apart', load, False, (('workers', workers),)),
             **spread(load, workers, False)}
    name = f'login-workers-{workers}'
    text = f'plain, login, {workers} workers against 1'

    return [
        Row(name, f'{text}: CPU', 'login_cpu_us', 'us', cases, {'floor': 1.1}),
        Row(f'{name}-sleeps', f'{text}: how often one sleeps', 'login_sleeps',
            'times', cases, {'base': 1.1}),
    ]


def crowd():
    """100,000 clients; in all but the last row by slope."""

    eight = (('workers', 8), ('zone', '256m'))
    slope = {
        'base': Case('nginx', '-i 20000 -a 8 -d 0', False, eight),
        'ngx_derp': Case('nginx', '-b 20000 -i 80000 -a 8 -d 0', False, eight),
    }
    pairs = '-n 100 -s 1400'

    return [
        Row('crowd-memory', 'plain, 8 workers, each client from 20,000 to '
            '100,000, against up to 20,000: memory', 'kib_per_idle', 'KiB',
            slope, most=0.8, repeat=1),
        Row('crowd-login', 'the same: CPU of its login', 'login_cpu_us', 'us',
            slope, {'base': 1.1}, repeat=1),
        Row('crowd-packet', 'plain, 8 workers, 100 pairs beside 100,000 idle '
            'clients, against none', 'cpu_us_per_pkt', 'us a packet', {
                'base': Case('nginx', pairs, False, eight),
                'ngx_derp': Case('nginx', f'{pairs} -i 100000 -a 8', False,
                                 eight),
            }, {'base': 1.1}, repeat=2),
    ]


# what is relayed, and how it is to compare to the floor

WORK = [
    (10, 1400, 0.95, True), (100, 1400, 0.82, True), (10, 64, 0.95, True),
    (1, 1400, 0.97, True), (4, 65536, 0.75, True),
    (10, 1400, 0.95, False), (100, 1400, 0.79, False), (10, 64, 0.95, False),
    (4, 65536, 0.88, False),
]

TABLE = [
    packets(*work) for work in WORK
] + [
    same_cipher(),
] + delays(10, 2000, 0.22) + delays(10, 8000, 0.33) + delays(100, 800, 0.33) + [
    across(pairs, size, tls) for pairs, size, _, tls in WORK
] + [
    Row('memory', 'TLS, idle client: memory', 'kib_per_idle', 'KiB',
        both('-i 4000 -d 0'), most=15.5),
    Row('memory-plain', 'plain, idle client: memory', 'kib_per_idle', 'KiB',
        both('-i 4000 -d 0', False), most=0.8),
    Row('login', 'TLS, login: CPU', 'login_cpu_us', 'us',
        all_three('-i 5000 -d 0'), {'derper': 0.5}),
    Row('login-plain', 'plain, login: CPU', 'login_cpu_us', 'us',
        all_three('-i 5000 -d 0', False), {'derper': 0.25}),

] + [
    row for workers in (4, 16) for row in logins(workers)
] + [
    Row('idle', 'TLS, 100 pairs beside 10,000 idle clients, against none',
        'cpu_us_per_pkt', 'us a packet',
        against('-n 100 -s 1400 -i 10000', '-n 100 -s 1400'), {'base': 1.1}),
    Row('idle-plain', 'plain, the same', 'cpu_us_per_pkt', 'us a packet',
        against('-n 100 -s 1400 -i 10000', '-n 100 -s 1400', False),
        {'base': 1.1}),
    Row('rest', 'TLS, 10,000 idle clients: CPU', 'rest_cpu_pct',
        '% of a core', both('-i 10000 -d 65'), most=1, repeat=1),
] + crowd() + [
    Row(f'churn{suffix(tls)}{"-watched" if watchers else ""}',
        f'{word(tls)}, connect, login and leave, {watchers} watchers',
        'cycle_cpu_us', 'us', both(f'-c -W {watchers}', tls),
        most=None if tls else most)
    for tls in (True, False) for watchers, most in ((0, 190), (5, 240))
] + [
    Row(f'link-{scheme}', f'plain, 4 pairs, 65536 bytes, over a link by '
        f'{scheme}, both relays on one core', 'cpu_us_per_pkt',
        'us a packet',
        {'ngx_derp': Case('nginx', '-n 4 -s 65536 -U /other', False,
                          (('mesh', scheme),))}, most=212)      # 308 MB/s
    for scheme in ('http', 'https')
] + [
    Row('takeover', 'a link taken over after the death of its owner',
        'takeover_ms', 'ms', {'ngx_derp': Case('takeover', '')}, most=120),
    Row('flood', 'plain, a watcher is told of 10,000 clients', 'told_cpu_us',
        'us a client', both('-i 10000 -W 20 -d 0', False), most=0.34),
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
