package main

import (
	"fmt"
	"net/http"
	"time"
)

func Handler(w http.ResponseWriter, r *http.Request) {
	for number := 0; number < 5; number++ {
		fmt.Fprintln(w, number)
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond)
	}
}

func main() {}
