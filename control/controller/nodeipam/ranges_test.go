package nodeipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func rangesOf(cidr string, bits int, taken ...string) *ranges {
	r := newRanges(netip.MustParsePrefix(cidr), bits)
	for _, text := range taken {
		r.move("", text)
	}
	return r
}

func TestARangeIsNeverGivenTwice(t *testing.T) {
	r := rangesOf("10.42.0.0/16", 24)
	seen := map[netip.Prefix]bool{}
	for i := range 256 {
		part, err := r.free()
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		if seen[part] || !r.cidr.Overlaps(part) || part.Bits() != 24 {
			t.Fatalf("part %d is %s: given before, outside or of the wrong size", i, part)
		}
		seen[part] = true
		r.move("", part.String())
	}
	if part, err := r.free(); err == nil {
		t.Errorf("a full range gave %s, want an error", part)
	}
	r.move("10.42.7.0/24", "")
	if part, err := r.free(); err != nil || part.String() != "10.42.7.0/24" {
		t.Errorf("the range of a deleted node: got %s, %v, want 10.42.7.0/24", part, err)
	}
}

func TestRangesOfOtherSizesAreAvoided(t *testing.T) {
	for _, test := range []struct {
		cidr  string
		bits  int
		taken []string
		want  string
	}{
		{"10.42.0.0/16", 24, []string{"10.42.0.0/20"}, "10.42.16.0/24"},
		{"10.42.0.0/16", 24, []string{"rubbish", ""}, "10.42.0.0/24"},
		{"10.42.0.0/16", 26, []string{"10.42.0.0/26", "10.42.0.64/26"}, "10.42.0.128/26"},
		{"fd00:42::/48", 64, []string{"fd00:42::/64"}, "fd00:42:0:1::/64"},
		{"255.255.255.0/24", 25, []string{"255.255.255.0/25"}, "255.255.255.128/25"},
	} {
		got, err := rangesOf(test.cidr, test.bits, test.taken...).free()
		if err != nil || got.String() != test.want {
			t.Errorf("%s in parts of /%d without %q: got %s, %v, want %s", test.cidr, test.bits, test.taken, got, err, test.want)
		}
	}
	last := rangesOf("255.255.255.0/24", 25, "255.255.255.0/25", "255.255.255.128/25")
	if got, err := last.free(); err == nil {
		t.Errorf("past the last address: got %s, want an error", got)
	}
}

// Nodes come and go in any order, two may have been given one range by hand, and
// some have ranges that are larger or outside. Whatever is remembered between
// the calls must not hide a free part or show a taken one: a search through all
// says which it is.
func TestTheLowestFreeRangeIsFoundWhateverCameAndWent(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 1))
	r := rangesOf("10.0.0.0/26", 30)
	var have []string
	for step := range 4000 {
		if random.IntN(2) == 0 && len(have) > 0 {
			i := random.IntN(len(have))
			r.move(have[i], "")
			have = append(have[:i], have[i+1:]...)
		} else {
			text := fmt.Sprintf("10.0.0.%d/30", 4*random.IntN(17))
			if random.IntN(8) == 0 {
				text = fmt.Sprintf("%s.0.0.%d/%d", []string{"9", "10"}[random.IntN(2)], 16*random.IntN(4), []int{6, 28, 32}[random.IntN(3)])
			} else if part, err := r.free(); err == nil && random.IntN(2) == 0 {
				text = part.String()
			}
			r.move("", text)
			have = append(have, text)
		}
		want := ""
		for i := 0; i < 64 && want == ""; i += 4 {
			part := netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/30", i))
			taken := false
			for _, text := range have {
				taken = taken || part.Overlaps(netip.MustParsePrefix(text))
			}
			if !taken {
				want = part.String()
			}
		}
		got, err := r.free()
		if err != nil != (want == "") || err == nil && got.String() != want {
			t.Fatalf("step %d with %q: got %s, %v, want %q", step, have, got, err, want)
		}
	}
}
