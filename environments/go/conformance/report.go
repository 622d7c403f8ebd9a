package main

import (
	"encoding/json"
	"net/http"
)

func Handler(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	json.NewEncoder(w).Encode(map[string]string{
		"method":   r.Method,
		"path":     r.URL.Path,
		"a":        query.Get("a"),
		"b":        query.Get("b"),
		"question": r.Header.Get("X-Question"),
	})
}
