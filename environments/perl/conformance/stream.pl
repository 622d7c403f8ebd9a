return sub {
    my $number = 0;
    return sub {
        return undef if $number == 5;
        select undef, undef, undef, 0.2 if $number;
        return $number++ . "\n";
    };
};
