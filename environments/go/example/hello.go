package main

import (
	"fmt"
	"net/http"
)

// Handler greets.
func Handler(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "Hello, world!")
}
