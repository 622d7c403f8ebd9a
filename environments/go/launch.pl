# Starts a compiled function, by the contract of Fission's environments, and gives it the socket.
#
# States: generic (answers /healthz and waits for code) -> launched: the executable of the function
# has the listening socket (descriptor 3) and answers everything, with nothing in between. It says
# on descriptor 4 that it serves; until then the request to specialise waits. This process stays
# to pass on signals and what the executable says, and ends as it ends.
use strict;
use warnings;
# perl-base has no FindBin.
BEGIN { unshift @INC, __FILE__ =~ m{^(.*)/} ? $1 : '.' }
use Serve;
use POSIX ();
use Errno qw(EINTR);

my $SAID = 16384;
my ($child, $output);

sub find {
    my ($where) = @_;
    my $file = -d $where ? "$where/function" : $where;
    die "$where has no file `function`: was the package built?\n" unless -f $file;
    open my $handle, '<', $file or die "open $file: $!\n";
    binmode $handle;
    read $handle, my $first, 4;
    die "$file is no executable: give the code as source (--src), so that it is built\n" if ($first // '') ne "\x7fELF";
    return $file if -x $file or chmod 0755, $file;
    # It belongs to another: a copy can be made executable.
    my $copy = ($ENV{TMPDIR} || '/tmp') . "/function-$$";
    open my $out, '>', $copy or die "write $copy: $!\n";
    binmode $out;
    seek $handle, 0, 0;
    local $/ = \1048576;
    while (my $piece = <$handle>) { print $out $piece or die "write $copy: $!\n" }
    close $out or die "write $copy: $!\n";
    chmod 0755, $copy or die "chmod $copy: $!\n";
    return $copy;
}

# Runs in the new process.
sub become {
    my ($file, $where, $name, $listener, $ready, $errors) = @_;
    $SIG{TERM} = $SIG{INT} = $SIG{PIPE} = 'DEFAULT';
    chdir $where if -d $where;
    # Where they are now must not be where they shall be.
    my ($socket, $says) = map { POSIX::dup2(fileno $_, 10 + fileno $_) } $listener, $ready;
    POSIX::dup2(fileno $errors, 2);
    POSIX::dup2($socket, 3);
    POSIX::dup2($says, 4);
    POSIX::close($_) for $socket, $says;
    $ENV{FUNCTION_NAME} = $name;
    { no warnings; exec { $file } $file }
    POSIX::write(2, "run $file: $!\n", length "run $file: $!\n");
    POSIX::_exit(127);
}

sub specialise {
    my ($where, $name, $connection, $listener) = @_;
    my $file = find($where);
    pipe my $ready, my $says or die "pipe: $!\n";
    pipe $output, my $errors or die "pipe: $!\n";
    $child = fork // die "fork: $!\n";
    become($file, $where, $name, $listener, $says, $errors) unless $child;
    close $says;
    close $errors;
    my $said = '';
    while (1) {
        my $set = '';
        vec($set, fileno $_, 1) = 1 for $ready, $output;
        next if select($set, undef, undef, undef) < 0;
        if (vec $set, fileno $output, 1) {
            my $count = sysread $output, my $text, 65536;
            print STDERR $text if $count;
            $said = substr $said . $text, -$SAID if $count;
        }
        next unless vec $set, fileno $ready, 1;
        my $count = sysread $ready, my $word, 64;
        next if !defined $count and $! == EINTR;
        return if $count;
        # Ended, or closed it: what it still says tells why.
        kill KILL => $child;
        1 while waitpid($child, 0) < 0 and $! == EINTR;
        my $status = $?;
        while (sysread $output, my $text, 65536) { print STDERR $text; $said .= $text }
        die $said if length $said;
        die sprintf "the function ended with %d before it served\n", $status >> 8 unless $status & 127;
        die sprintf "the function was ended by signal %d before it served\n", $status & 127;
    }
}

# What the executable says goes on; it ends, and so does this.
sub watch {
    $SIG{TERM} = $SIG{INT} = sub { kill TERM => $child };
    while (1) {
        my $count = sysread $output, my $text, 65536;
        next if !defined $count and $! == EINTR;
        last unless $count;
        print STDERR $text;
    }
    1 while waitpid($child, 0) < 0 and $! == EINTR;
    exit($? & 127 ? 128 + ($? & 127) : $? >> 8);
}

Serve::run(specialise => \&specialise, serve => \&watch);
