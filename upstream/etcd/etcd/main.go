// Command etcd is the store and, called as etcdctl or with that word first,
// its command line client.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

const client = "etcdctl"

func main() {
	switch {
	case filepath.Base(os.Args[0]) == client:
		ctlv3.MustStart()
	case len(os.Args) > 1 && os.Args[1] == client:
		os.Args = os.Args[1:]
		ctlv3.MustStart()
	default:
		etcdmain.Main(os.Args)
	}
}
