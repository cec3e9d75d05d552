package accel

// The objects are committed, so that building needs no compiler of C. TestObjectsAreOfTheirSource tells when they are old.
//
//go:generate go tool bpf2go -target bpfel,bpfeb bpf bpf/synproxy.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-sign-compare
