return sub { die "this call fails\n" };
