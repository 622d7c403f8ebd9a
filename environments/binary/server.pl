# Runs an executable or script for every request, by the contract of Fission's environments
# (see Serve.pm).
#
# It finds the request as a CGI program does: REQUEST_METHOD, REQUEST_URI, PATH_INFO, QUERY_STRING,
# CONTENT_TYPE, CONTENT_LENGTH, HTTP_<HEADER>; the body is its standard input. What it writes is the
# answer, with status 200 when it ends with 0 and 500 when not. When it writes headers first, as CGI
# has them (`Status: 404`, `Content-Type: ...`, an empty line), the answer has those, and what
# follows is sent as it comes.
use strict;
use warnings;
# perl-base has no FindBin.
BEGIN { unshift @INC, __FILE__ =~ m{^(.*)/} ? $1 : '.' }
use Serve;
use POSIX ();
use Errno qw(EINTR);

my ($program, $folder);
# What a pipe takes without a reader.
my $PIPE = 65536;
my $READ = 65536;

sub specialise {
    my ($where, $name) = @_;
    $folder = -d $where ? $where : undef;
    my @names = $name ? ($name) : qw(main handler run);
    $program = $where;
    if ($folder) {
        ($program) = grep { -f } map { "$where/$_" } @names
            or die "$where has no file " . join(', ', @names) . ": name it as the entry point\n";
    }
    die "$program does not exist\n" unless -f $program;
    open my $file, '<', $program or die "open $program: $!\n";
    binmode $file;
    read $file, my $first, 256;
    if ($first =~ /^#!\s*((\S+)[^\r\n]*)/) {
        die "its first line asks for $1, and there is no $2\n" unless -x $2;
        die "its first line ends with a carriage return: write it with Unix line ends\n" if $first =~ /^#![^\n]*\r\n/;
    } elsif ($first !~ /^\x7fELF/) {
        die "neither an executable nor a script that begins with #!\n";
    }
    return if -x $program or chmod 0755, $program;
    # It belongs to another: a copy can be made executable.
    my $copy = ($ENV{TMPDIR} || '/tmp') . "/function-$$";
    open my $out, '>', $copy or die "write $copy: $!\n";
    binmode $out;
    seek $file, 0, 0;
    local $/ = \1048576;
    print $out $_ or die "write $copy: $!\n" while <$file>;
    close $out or die "write $copy: $!\n";
    chmod 0755, $copy or die "chmod $copy: $!\n";
    $program = $copy;
}

sub variables {
    my ($request) = @_;
    my $path = $request->{path};
    $path =~ s/%([0-9a-fA-F]{2})/chr hex $1/ge;
    # No variable can hold it.
    $path =~ s/\0.*//s;
    my %variables = (
        REQUEST_METHOD => $request->{method}, REQUEST_URI => $request->{target}, PATH_INFO => $path,
        QUERY_STRING => $request->{query}, CONTENT_LENGTH => length $request->{body},
        GATEWAY_INTERFACE => 'CGI/1.1', SERVER_PROTOCOL => 'HTTP/1.1', SERVER_NAME => 'localhost',
        SERVER_PORT => $ENV{PORT} || 8888, SCRIPT_NAME => '',
    );
    my $headers = $request->{headers};
    for my $name (keys %$headers) {
        # HTTP_PROXY would tell programs to use a proxy of the client's choice.
        next if $name eq 'proxy' or $name eq 'content-length' or $name !~ /^[\w-]+$/;
        my $variable = uc $name =~ tr/-/_/r;
        $variables{ $name eq 'content-type' ? 'CONTENT_TYPE' : "HTTP_$variable" } = $headers->{$name};
    }
    return %variables;
}

# Where the program reads the body.
sub input {
    my ($body) = @_;
    if (length $body == 0) { open my $null, '<', '/dev/null' or die "open /dev/null: $!\n"; return $null }
    if (length $body <= $PIPE) {
        pipe my $read, my $write or die "pipe: $!\n";
        syswrite $write, $body;
        return $read;
    }
    open my $file, '+>', undef or die "make a temporary file: $!\n";
    binmode $file;
    print $file $body or die "write a temporary file: $!\n";
    $file->flush;
    sysseek $file, 0, 0;
    return $file;
}

sub start {
    my ($request) = @_;
    my $input = input($request->{body});
    pipe my $output, my $write or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    return ($pid, $output) if $pid;
    $SIG{TERM} = $SIG{INT} = $SIG{PIPE} = 'DEFAULT';
    POSIX::setsid();
    my %variables = variables($request);
    @ENV{ keys %variables } = values %variables;
    chdir $folder if $folder;
    POSIX::dup2(fileno $input, 0);
    POSIX::dup2(fileno $write, 1);
    { no warnings; exec { $program } $program }
    print STDERR "run $program: $!\n";
    POSIX::_exit(127);
}

sub piece {
    my ($output) = @_;
    while (1) {
        my $count = sysread $output, (my $data), $READ;
        return $data if $count;
        return undef if defined $count;
        die "read from the program: $!\n" if $! != EINTR;
    }
}

# CGI headers at the begin of an output: status, headers and what follows them, or nothing.
sub cgi {
    my ($text) = @_;
    return unless $text =~ /^((?:Status|Content-Type|Location):[^\n]*\n(?:[A-Za-z][\w-]*:[^\n]*\n)*)\r?\n(.*)$/si;
    my ($head, $rest) = ($1, $2);
    my ($status, @headers) = (200);
    for (split /\r?\n/, $head) {
        my ($name, $value) = /^([^:]+):\s*(.*?)\s*$/ or next;
        if (lc $name eq 'status') { ($status) = $value =~ /^(\d{3})/ ? $1 : 500 }
        else { push @headers, $name, $value }
        $status = 302 if lc $name eq 'location' and $status == 200;
    }
    return ($status, \@headers, $rest);
}

sub call {
    my ($request, $connection) = @_;
    my ($pid, $output) = start($request);
    my $text = '';
    my $ok = eval {
        while (defined(my $data = piece($output))) {
            $text .= $data;
            my ($status, $headers, $rest) = cgi($text) or next;
            Serve::send_pieces($connection, $request, $status, $headers, sub {
                if (defined $rest) { my $first = $rest; $rest = undef; return $first if length $first }
                piece($output);
            });
            $text = undef;
            last;
        }
        1;
    };
    my $error = $@;
    # A client that is gone waits for nothing.
    kill TERM => -$pid unless $ok;
    1 while waitpid($pid, 0) < 0 and $! == EINTR;
    die $error unless $ok;
    return unless defined $text;
    my ($code, $signal) = ($? >> 8, $? & 127);
    die "the program was ended by signal $signal\n$text" if $signal;
    die "the program ended with $code\n$text" if $code;
    Serve::send_whole($connection, $request, 200, [ 'Content-Type' => 'text/plain; charset=utf-8' ], $text);
}

Serve::run(specialise => \&specialise, call => \&call);
