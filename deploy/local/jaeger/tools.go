//go:build tools

// Package tools names the program that the local stack builds: the trace backend.
package tools

import _ "github.com/jaegertracing/jaeger/cmd/all-in-one"
