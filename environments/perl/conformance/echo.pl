sub main { return [200, ["Content-Type" => "application/octet-stream"], [$_[0]->body]] } 1;
