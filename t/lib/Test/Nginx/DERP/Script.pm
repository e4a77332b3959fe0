package Test::Nginx::DERP::Script;

# The text of a conversation made into steps, and words into bytes.  See
# Test::Nginx::DERP for the language.

use v5.36;

use Exporter qw( import );

use Test::Nginx::DERP::Frame;
use Test::Nginx::DERP::Sodium qw( noise );

our @EXPORT_OK = qw( matches options regex steps value words );

my $QUOTED = qr/ " (?: \\. | [^"\\] )* " | ' [^']* ' /xs;


# Each step: line (its number), text, who (names, none for the server's own
# steps), verb, rest (what follows the verb).

sub steps ($text) {
    my ($line, @steps) = (0);

    for (split /\n/, $text) {
        $line++;

        next if /^\s*(?:#|$)/;

        push @steps, map { step($line, $_) } unroll($_);
    }

    return @steps;
}


sub step ($line, $text) {
    $text =~ s/^\s+|\s+$//g;

    my $rest = $text;
    my @who;

    if ($rest =~ s/^( \w+ (?: [ ,]+ \w+ )* ) : \s+//x) {
        @who = split /[ ,]+/, $1;
    }

    $rest =~ s/^(\S+)\s*// or die "line $line says nothing: $text\n";

    return { line => $line, text => $text, who => \@who, verb => $1,
             rest => $rest };
}


# "a: send b "n $i" for i=1..3" is three lines; with two variables, the last one
# runs fastest.

sub unroll ($text) {
    my @texts = ($text);

    $text =~ / \s for \s+ ( (?: \w+ = \d+ \.\. \d+ \s* )+ ) $/x
        or return @texts;

    my $loops = $1;
    $texts[0] = substr $text, 0, $-[0];

    while ($loops =~ / (\w+) = (\d+) \.\. (\d+) /gx) {
        my ($name, $from, $to) = ($1, $2, $3);

        @texts = map {
            my $each = $_;
            map { $each =~ s/\$$name\b|\$\{$name\}/$_/gr } $from .. $to;
        } @texts;
    }

    return @texts;
}


sub words ($rest) {
    return $rest =~ / ( (?: $QUOTED | [^\s"'] )+ ) /gx;
}


# Words of the forms "name" and "name=value".

sub options ($rest) {
    my %options;

    for (words($rest)) {
        /^([\w-]+)(?:=(.*))?$/s or die "not an option: $_\n";
        push @{ $options{$1} }, $2 // 1;
    }

    return map { $_ => @{ $options{$_} } > 1 ? $options{$_} : $options{$_}[0] }
               keys %options;
}


# A word to bytes: terms joined by "+".  $key_of gives the key of a name.

sub value ($word, $key_of) {
    my $bytes = '';

    pos($word) = 0;

    do {
        $bytes .= term(\$word, $key_of);
    } while ($word =~ /\G\+/gc);

    pos($word) == length $word
        or die "not a value: ", substr($word, pos $word), "\n";

    return $bytes;
}


sub term ($word, $key_of) {
    for ($$word) {
        return times_count($word, unescape($1))
            if /\G"((?:\\.|[^"\\])*)"/gcs;
        return times_count($word, $1) if /\G'([^']*)'/gc;
        return times_count($word, pack 'H*', $1)
            if /\Ghex:((?:[0-9a-f]{2})*)/gci;

        return $key_of->($1) if /\Gkey:(\w+)/gc;
        return pack 'C', $1 if /\Gu8:(\d+)/gc;
        return pack 'n', $1 if /\Gu16:(\d+)/gc;
        return pack 'N', $1 if /\Gu32:(\d+)/gc;

        return noise($2, $1 // 0) if /\Gnoise(?::(\d+))?\{(\d+)\}/gc;
        return disco($2 // 62, $1 // 0)
            if /\Gdisco(?::(\d+))?(?:\{(\d+)\})?/gc;
    }

    die "not a value: ", substr($$word, pos $$word), "\n";
}


sub times_count ($word, $bytes) {
    return $$word =~ /\G\{(\d+)\}/gc ? $bytes x $1 : $bytes;
}


sub disco ($len, $number) {
    my $magic = $Test::Nginx::DERP::Frame::DISCO;

    return $magic . noise($len - length $magic, $number);
}


# /re/ or /re/i, or else the text itself

sub matches ($text, $wanted) {
    return $wanted =~ m{^/(.*)/(i?)$}s
        ? $text =~ ($2 ? qr/$1/i : qr/$1/)
        : $text eq $wanted;
}


sub regex ($text) {
    $text =~ m{^/(.*)/(i?)$}s or die "not a /regular expression/: $text\n";

    return $2 ? qr/$1/i : qr/$1/;
}


my %ESCAPE = (n => "\n", r => "\r", t => "\t", 0 => "\0");

sub unescape ($text) {
    $text =~ s/\\(?:x([0-9a-f]{2})|(.))/
               defined $1 ? chr hex $1 : $ESCAPE{$2} \/\/ $2/gsei;

    return $text;
}

1;
