package Serve;
# HTTP for environments without a server of their own, with nothing but perl-base.
#
# States: generic (one process answers /healthz and waits for code; each connection is answered
# once) -> specialised (a connection has a process of its own, forked from the one that loaded
# the code, so that calls run beside each other).
#
# An environment gives `specialise => sub ($path, $name)`, which dies when the code cannot be
# loaded, and `call => sub ($request, $connection)`, or `serve => sub ()` when something else has
# the listening socket from then on.
#
# Promises: a function that dies answers 500 and harms no other call; SIGTERM lets calls that run
# come to their end.

use strict;
use warnings;
use Errno qw(EINTR EAGAIN);
use IO::Handle;
use POSIX ();
use Socket qw(:DEFAULT IPPROTO_TCP TCP_NODELAY);

my $PORT = $ENV{PORT} || 8888;
my $USERFUNC = $ENV{USERFUNC} || '/userfunc';
my $MAX_HEAD = 64 * 1024;
my $MAX_BODY = $ENV{MAX_BODY_BYTES} || 256 << 20;
my %REASON = (
    200 => 'OK', 201 => 'Created', 202 => 'Accepted', 204 => 'No Content', 301 => 'Moved Permanently',
    302 => 'Found', 304 => 'Not Modified', 400 => 'Bad Request', 401 => 'Unauthorized', 403 => 'Forbidden',
    404 => 'Not Found', 405 => 'Method Not Allowed', 413 => 'Content Too Large',
    431 => 'Request Header Fields Too Large', 500 => 'Internal Server Error', 503 => 'Service Unavailable',
);
my ($stopping, $waiting) = (0, 0);

sub listener {
    socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "setsockopt: $!";
    bind($listener, sockaddr_in($PORT, INADDR_ANY)) or die "bind port $PORT: $!";
    listen($listener, 1024) or die "listen: $!";
    return $listener;
}

# Until code comes. Gives the connections that were caught amid a request.
sub generic {
    my ($listener, $specialise) = @_;
    my %open;
    local $SIG{TERM} = sub { POSIX::_exit(0) };
    local $SIG{INT} = $SIG{TERM};
    while (1) {
        my $ready = '';
        vec($ready, $_, 1) = 1 for fileno($listener), keys %open;
        next if select($ready, undef, undef, undef) < 0;
        if (vec($ready, fileno($listener), 1) and accept(my $socket, $listener)) {
            $open{ fileno $socket } = { socket => $socket, buffer => '', told => 0 };
        }
        for my $number (keys %open) {
            next unless vec($ready, $number, 1);
            my $connection = $open{$number};
            my $count = sysread $connection->{socket}, $connection->{buffer}, 65536, length $connection->{buffer};
            if (!$count) { delete $open{$number} unless !defined $count and $! == EINTR; next }
            my $request = eval { whole($connection) };
            if (!$request and !$@) { next }
            delete $open{$number};
            if ($@) { plain($connection, 400, "$@", 0); next }
            return values %open if answer_generic($connection, $request, $specialise);
        }
    }
}

# True when the function is there.
sub answer_generic {
    my ($connection, $request, $specialise) = @_;
    my $path = $request->{path};
    if ($path eq '/healthz') { plain($connection, 200, '', 0); return 0 }
    if ($request->{method} ne 'POST' or $path !~ m{^/(v2/)?specialize$}) {
        plain($connection, 500, 'Generic container: no requests supported', 0);
        return 0;
    }
    my ($where, $name) = ("$USERFUNC/user", '');
    if ($1) {
        ($where, $name) = (text_of($request->{body}, 'filepath'), text_of($request->{body}, 'functionName') // '');
        if (!defined $where) { plain($connection, 400, 'filepath and functionName are needed, as JSON', 0); return 0 }
    }
    if (!eval { $specialise->($where, $name, $connection); 1 }) {
        my $error = $@;
        print STDERR $error;
        plain($connection, 500, $error, 0);
        # A second try would find what the first left behind: it is refused.
        our $failed = 1;
        return 1;
    }
    plain($connection, 200, '', 0);
    return 1;
}

# A top-level string of a JSON document, without a parser: perl-base has none.
sub text_of {
    my ($json, $key) = @_;
    my ($depth, $name) = (0, undef);
    for ($json) {
        while (1) {
            /\G[\s,]+/gc;
            if (/\G[\{\[]/gc) { $depth++; $name = undef }
            elsif (/\G[\}\]]/gc) { $depth-- }
            elsif (/\G"([^"\\]*+(?:\\.[^"\\]*+)*+)"/gcs) {
                my $text = $1;
                if (/\G\s*:/gc) { $name = $depth == 1 ? $text : undef; next }
                return unescape($text) if $depth == 1 and ($name // '') eq $key;
                $name = undef;
            } elsif (/\G[^\s,\{\}\[\]"]+/gc) { $name = undef }
            else { return undef }
        }
    }
}

sub unescape {
    my ($text) = @_;
    $text =~ s{\\(u([0-9a-fA-F]{4})|.)}{
        my $c = $1;
        if (defined $2) { my $u = chr hex $2; utf8::encode($u); $u }
        else { +{ n => "\n", t => "\t", r => "\r", b => "\b", f => "\f" }->{$c} // $c }
    }ges;
    return $text;
}

# A request out of the buffer, or nothing while it is not whole. Dies when it is none.
sub whole {
    my ($connection) = @_;
    my $end = index $connection->{buffer}, "\r\n\r\n";
    if ($end < 0) {
        die "a head may have $MAX_HEAD bytes\n" if length $connection->{buffer} > $MAX_HEAD;
        return;
    }
    my $request = $connection->{request} ||= head(substr $connection->{buffer}, 0, $end);
    if (($request->{headers}{expect} // '') =~ /100-continue/i and !$connection->{told}) {
        $connection->{told} = 1;
        write_all($connection->{socket}, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (($request->{headers}{'transfer-encoding'} // '') =~ /chunked/i) {
        return unless chunks($connection, $end + 4, $request);
    } else {
        my $length = $request->{headers}{'content-length'} // 0;
        die "content-length is no number\n" if $length !~ /^\d+$/;
        die "a body may have $MAX_BODY bytes\n" if $length > $MAX_BODY;
        return if length($connection->{buffer}) < $end + 4 + $length;
        $request->{body} = substr $connection->{buffer}, $end + 4, $length;
        substr($connection->{buffer}, 0, $end + 4 + $length) = '';
    }
    @$connection{qw(request told at pieces)} = (undef, 0, undef, undef);
    return $request;
}

sub head {
    my ($first, @lines) = split /\r\n/, shift;
    my ($method, $target, $version) = ($first // '') =~ m{^(\S+) (\S+) (HTTP/1\.[01])$} or die "not an HTTP request\n";
    my %headers;
    for (@lines) {
        my ($name, $value) = /^([^\s:]+):[ \t]*(.*?)[ \t]*$/s or die "a header without a colon\n";
        $name = lc $name;
        $headers{$name} = defined $headers{$name} ? "$headers{$name}, $value" : $value;
    }
    my ($path, $query) = $target =~ /^([^?]*)\??(.*)$/s;
    my $wish = lc($headers{connection} // '');
    return {
        method => $method, target => $target, path => $path, query => $query, headers => \%headers, body => '',
        keep => $version eq 'HTTP/1.1' ? $wish ne 'close' : $wish eq 'keep-alive',
    };
}

sub chunks {
    my ($connection, $start, $request) = @_;
    $connection->{at} //= $start;
    $connection->{pieces} //= '';
    my $buffer = \$connection->{buffer};
    while (1) {
        my $line = index $$buffer, "\r\n", $connection->{at};
        return 0 if $line < 0;
        my ($hex) = substr($$buffer, $connection->{at}, $line - $connection->{at}) =~ /^([0-9a-fA-F]{1,8})/
            or die "a chunk without a size\n";
        my $size = hex $hex;
        die "a body may have $MAX_BODY bytes\n" if length($connection->{pieces}) + $size > $MAX_BODY;
        if ($size == 0) {
            # Trailers, if any, end with an empty line.
            my $end = substr($$buffer, $line, 4) eq "\r\n\r\n" ? $line + 4 : index($$buffer, "\r\n\r\n", $line) + 4;
            return 0 if $end < 4;
            $request->{body} = $connection->{pieces};
            substr($$buffer, 0, $end) = '';
            return 1;
        }
        return 0 if length($$buffer) < $line + 2 + $size + 2;
        $connection->{pieces} .= substr $$buffer, $line + 2, $size;
        $connection->{at} = $line + 2 + $size + 2;
    }
}

sub write_all {
    my ($socket, $data) = @_;
    my $at = 0;
    while ($at < length $data) {
        my $count = syswrite $socket, $data, length($data) - $at, $at;
        if (defined $count) { $at += $count; next }
        next if $! == EINTR;
        die "the client is gone: $!\n";
    }
}

sub start_line {
    my ($status, $headers, $keep) = @_;
    my $text = "HTTP/1.1 $status " . ($REASON{$status} // '') . "\r\n";
    for (my $at = 0; $at < @$headers; $at += 2) {
        my ($name, $value) = @$headers[$at, $at + 1];
        die "a header with a line break\n" if "$name$value" =~ /[\r\n]/;
        next if lc($name) =~ /^(content-length|transfer-encoding|connection)$/;
        $text .= "$name: $value\r\n";
    }
    $text .= "Connection: close\r\n" unless $keep;
    return $text;
}

# A whole answer.
sub send_whole {
    my ($connection, $request, $status, $headers, $body) = @_;
    utf8::encode($body) if utf8::is_utf8($body);
    my $bare = $status == 204 || $status == 304;
    my $text = start_line($status, $headers, $request->{keep});
    $text .= 'Content-Length: ' . length($body) . "\r\n" unless $bare;
    $connection->{begun} = 1;
    write_all($connection->{socket}, "$text\r\n" . ($bare || $request->{method} eq 'HEAD' ? '' : $body));
}

# An answer whose pieces `$next` gives until it gives undef.
sub send_pieces {
    my ($connection, $request, $status, $headers, $next) = @_;
    my $text = start_line($status, $headers, $request->{keep}) . "Transfer-Encoding: chunked\r\n\r\n";
    $connection->{begun} = 1;
    write_all($connection->{socket}, $text);
    return if $request->{method} eq 'HEAD';
    while (defined(my $piece = $next->())) {
        utf8::encode($piece) if utf8::is_utf8($piece);
        next unless length $piece;
        write_all($connection->{socket}, sprintf("%x\r\n", length $piece) . "$piece\r\n");
    }
    write_all($connection->{socket}, "0\r\n\r\n");
}

sub plain {
    my ($connection, $status, $body, $keep) = @_;
    my $request = { keep => $keep, method => 'GET' };
    # A client that is gone needs no answer.
    eval { send_whole($connection, $request, $status, [ 'Content-Type' => 'text/plain; charset=utf-8' ], $body) };
}

# One connection, in a process of its own.
sub serve {
    my ($connection, $call) = @_;
    our $failed;
    setsockopt($connection->{socket}, IPPROTO_TCP, TCP_NODELAY, 1);
    while (1) {
        my $request = eval { whole($connection) };
        if ($@) { plain($connection, 400, "$@", 0); return }
        if (!$request) {
            $waiting = $connection->{buffer} eq '';
            return if $stopping and $waiting;
            my $count = sysread $connection->{socket}, $connection->{buffer}, 262144, length $connection->{buffer};
            $waiting = 0;
            next if !defined $count and $! == EINTR;
            return unless $count;
            next;
        }
        $request->{keep} &&= !$stopping;
        $connection->{begun} = 0;
        my $path = $request->{path};
        if ($path eq '/healthz') { plain($connection, 200, '', $request->{keep}) }
        elsif ($request->{method} eq 'POST' and $path =~ m{^/(v2/)?specialize$}) {
            plain($connection, 400, 'Not a generic container', $request->{keep});
        } elsif ($failed) { plain($connection, 500, 'the code of the function did not load', $request->{keep}) }
        elsif (!eval { $call->($request, $connection); 1 }) {
            my $error = $@ || "unknown\n";
            print STDERR $error;
            return if $connection->{begun};
            plain($connection, 500, $error, $request->{keep});
        }
        return unless $request->{keep} and !$stopping;
    }
}

sub fork_off {
    my ($children, $listener, $connection, $call) = @_;
    my $pid = fork;
    if (!defined $pid) { plain($connection, 503, "fork: $!", 0); return }
    if ($pid) { $children->{$pid} = 1; return }
    $SIG{CHLD} = 'DEFAULT';
    $SIG{TERM} = $SIG{INT} = sub { $stopping = 1; POSIX::_exit(0) if $waiting };
    close $listener;
    srand;
    eval { serve($connection, $call); 1 } or print STDERR $@;
    POSIX::_exit(0);
}

sub specialised {
    my ($listener, $call, @caught) = @_;
    my %children;
    $SIG{CHLD} = sub { while ((my $pid = waitpid -1, POSIX::WNOHANG()) > 0) { delete $children{$pid} } };
    $SIG{TERM} = $SIG{INT} = sub { $stopping = 1 };
    fork_off(\%children, $listener, $_, $call) for @caught;
    while (!$stopping) {
        my $ready = '';
        vec($ready, fileno($listener), 1) = 1;
        next if select($ready, undef, undef, 1) <= 0;
        accept(my $socket, $listener) or next;
        fork_off(\%children, $listener, { socket => $socket, buffer => '', told => 0 }, $call);
    }
    close $listener;
    # A signal that comes just before a process waits is lost on it: it is told again.
    while (%children) {
        kill TERM => keys %children;
        select undef, undef, undef, 0.05;
        $SIG{CHLD}->();
    }
    exit 0;
}

# Serves until SIGTERM.
sub run {
    my (%environment) = @_;
    $SIG{PIPE} = 'IGNORE';
    STDERR->autoflush(1);
    STDOUT->autoflush(1);
    my $listener = listener();
    my $specialise = $environment{specialise};
    my @caught = generic($listener, sub { $specialise->(@_, $listener) });
    our $failed;
    if ($environment{serve} and !$failed) {
        close $listener;
        $environment{serve}->();
    }
    specialised($listener, $environment{call}, @caught);
}

1;
