# Runs one Perl function behind HTTP, by the contract of Fission's environments (see Serve.pm).
#
# The code's value is the function (`return sub { my ($request) = @_; ... };`), or it has a sub of
# the name that was asked for (`main` when none was). It answers with a string, with a reference
# to a hash or an array of [status, [headers], [pieces] or sub that gives them].
#
# A connection has a process of its own: globals live as long as it does.
use strict;
use warnings;
use FindBin ();
use lib $FindBin::Bin;
use Serve;
# Not needed here: functions use them, and find them loaded.
use Scalar::Util (); use List::Util (); use Data::Dumper (); use POSIX ();
eval { require JSON::PP; require Time::HiRes; require MIME::Base64; require Encode; };

package Request;
sub method { $_[0]{method} }
sub path { $_[0]{path} }
sub query_string { $_[0]{query} }
sub headers { $_[0]{headers} }
sub header { $_[0]{headers}{ lc $_[1] } }
sub body { $_[0]{body} }
sub content { $_[0]{body} }
# So that `$context->request` works too.
sub request { $_[0] }
sub json { JSON::PP->new->utf8->decode($_[0]{body}) }
sub param {
    my ($self, $wanted) = @_;
    for (split /&/, $self->{query}) {
        my ($name, $value) = map { tr/+/ /; s/%([0-9a-fA-F]{2})/chr hex $1/ger } split /=/, $_, 2;
        return $value // '' if defined $name and $name eq $wanted;
    }
    return undef;
}

package main;
my $function;

sub specialise {
    my ($where, $name) = @_;
    my ($file, $entry) = ($where, $name || 'main');
    if (-d $where) {
        my $module = 'main';
        ($module, $entry) = $name =~ /^(.+)\.([^.]+)$/ if $name =~ /\./;
        ($file) = grep { -f } "$where/$module.pl", "$where/$module.pm", "$where/$module"
            or die "$where has no $module.pl, $module.pm\n";
        unshift @INC, $where, "$where/lib", "$where/local/lib/perl5";
        chdir $where;
    } else {
        $entry =~ s/^.*\.//;
    }
    local ($!, $@);
    my $value = do $file;
    die $@ if $@;
    die "$file: $!\n" if !defined $value and $!;
    $function = ref $value eq 'CODE' ? $value : main->can($entry);
    die "$file gives no sub, and has none named $entry\n" unless $function;
}

sub call {
    my ($request, $connection) = @_;
    my $value = $function->(bless { %$request }, 'Request');
    $value //= '';
    if (ref $value eq 'ARRAY') {
        my ($status, $headers, $body) = @$value;
        return Serve::send_pieces($connection, $request, $status, $headers, $body) if ref $body eq 'CODE';
        $body = join '', @$body if ref $body eq 'ARRAY';
        return Serve::send_whole($connection, $request, $status, $headers, $body // '');
    }
    if (ref $value eq 'HASH') {
        my $json = JSON::PP->new->utf8->canonical->encode($value);
        return Serve::send_whole($connection, $request, 200, [ 'Content-Type' => 'application/json' ], $json);
    }
    if (ref $value eq 'CODE') {
        return Serve::send_pieces($connection, $request, 200, [ 'Content-Type' => 'text/plain; charset=utf-8' ], $value);
    }
    Serve::send_whole($connection, $request, 200, [ 'Content-Type' => 'text/html; charset=utf-8' ], "$value");
}

Serve::run(specialise => \&specialise, call => \&call);
