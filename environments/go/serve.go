// Serves the handlers of this package on the socket that the environment hands over.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sort"
	"strings"
	"syscall"
)

// farplaneHandlers is written by the build: every handler of the package by its name.
//
// Serving begins in an init function, the last of the package, so that it may have a main of its
// own, as plugins do.
func init() {
	handler, err := farplaneChoose(os.Getenv("FUNCTION_NAME"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	socket := os.NewFile(3, "listener")
	listener, err := net.FileListener(socket)
	socket.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "take the listening socket:", err)
		os.Exit(1)
	}
	server := &http.Server{Handler: farplaneContract(handler)}
	done := make(chan struct{})
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-asked
		// Waits for calls that run.
		server.Shutdown(context.Background())
		close(done)
	}()
	ready := os.NewFile(4, "ready")
	ready.WriteString("serving\n")
	ready.Close()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
	<-done
	os.Exit(0)
}

func farplaneChoose(name string) (http.HandlerFunc, error) {
	name = name[strings.LastIndex(name, ".")+1:]
	if name == "" {
		name = "Handler"
	}
	if handler, found := farplaneHandlers[name]; found {
		return handler, nil
	}
	if len(farplaneHandlers) == 1 && os.Getenv("FUNCTION_NAME") == "" {
		for _, handler := range farplaneHandlers {
			return handler, nil
		}
	}
	var names []string
	for name := range farplaneHandlers {
		names = append(names, name)
	}
	sort.Strings(names)
	return nil, fmt.Errorf("the package has no handler %s; it has: %s", name, strings.Join(names, ", "))
}

func farplaneContract(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			return
		}
		if r.Method == http.MethodPost && (r.URL.Path == "/specialize" || r.URL.Path == "/v2/specialize") {
			http.Error(w, "Not a generic container", http.StatusBadRequest)
			return
		}
		defer func() {
			if problem := recover(); problem != nil {
				if problem == http.ErrAbortHandler {
					panic(problem)
				}
				fmt.Fprintf(os.Stderr, "panic: %v\n%s", problem, debug.Stack())
				http.Error(w, fmt.Sprintf("panic: %v", problem), http.StatusInternalServerError)
			}
		}()
		handler(w, r)
	}
}
