package main

import (
	"fmt"
	"net/http"

	"rsc.io/quote"
)

// Handler greets with a proverb.
func Handler(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, quote.Hello(), quote.Go())
}
