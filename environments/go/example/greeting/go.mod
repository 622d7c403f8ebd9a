module greeting

go 1.19

require rsc.io/quote v1.5.2
