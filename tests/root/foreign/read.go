// Reads a tree as Go programs do: "bytes FILE", or "fstest DIR NAME...", the standard library's own
// judge of file systems.
package main

import (
	"fmt"
	"os"
	"testing/fstest"
)

func main() {
	if os.Args[1] == "bytes" {
		bytes, err := os.ReadFile(os.Args[2])
		end(err)
		_, err = os.Stdout.Write(bytes)
		end(err)
		return
	}
	end(fstest.TestFS(os.DirFS(os.Args[2]), os.Args[3:]...))
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
