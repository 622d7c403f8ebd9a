package main

import "net/http"

func Handler(w http.ResponseWriter, r *http.Request) {
	panic("this call fails")
}
