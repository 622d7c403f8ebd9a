package main

import "net/http"

func init() {
	panic("no such thing")
}

func Handler(w http.ResponseWriter, r *http.Request) {}
