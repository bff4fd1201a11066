package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/musterhq/muster/test/bench/wire"
)

// Answers are looked into only as far as a case must know, and without decoding
// objects.

// Fields of runtime.Unknown, of a list, and of its metadata.
const (
	unknownRaw   = 2
	listMetadata = 1
	listContinue = 3
)

// continueOf reads the token of the next page from the beginning of a list; ""
// if this is the last.
func continueOf(head []byte, media string) (string, error) {
	if media == inJSON {
		var list struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
		}
		items := bytes.Index(head, []byte(`"items":`))
		if items < 0 {
			return "", errors.New("a list does not begin with its metadata")
		}
		text := append(bytes.TrimRight(bytes.Clone(head[:items]), ", "), '}')
		err := json.Unmarshal(text, &list)
		return list.Metadata.Continue, err
	}
	if !bytes.HasPrefix(head, []byte("k8s\x00")) {
		return "", errors.New("a list in protobuf does not begin as one")
	}
	raw, err := wire.Field(head[4:], unknownRaw)
	if err != nil {
		return "", err
	}
	metadata, err := wire.Field(raw, listMetadata)
	if err != nil {
		return "", err
	}
	token, err := wire.Field(metadata, listContinue)
	return string(token), err
}

// stamp is what a watched pod's message holds: when its write began, since the
// case began.
const stampMark = "began-at-"

func stamp(since time.Duration) string { return fmt.Sprintf("%s%016x", stampMark, int64(since)) }

// stampOf finds it in a frame of a watch.
func stampOf(frame []byte) (time.Duration, bool) {
	at := bytes.Index(frame, []byte(stampMark))
	if at < 0 || len(frame) < at+len(stampMark)+16 {
		return 0, false
	}
	at += len(stampMark)
	since, err := strconv.ParseInt(string(frame[at:at+16]), 16, 64)
	return time.Duration(since), err == nil
}
