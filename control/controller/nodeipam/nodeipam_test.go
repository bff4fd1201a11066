package nodeipam

import (
	"net/netip"
	"testing"
)

func TestFirstFreeNeverGivesARangeTwice(t *testing.T) {
	cidr := netip.MustParsePrefix("10.42.0.0/16")
	var taken []string
	seen := map[netip.Prefix]bool{}
	for i := range 256 {
		part, err := firstFree(cidr, 24, taken)
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		if seen[part] || !cidr.Overlaps(part) || part.Bits() != 24 {
			t.Fatalf("part %d is %s: given before, outside or of the wrong size", i, part)
		}
		seen[part] = true
		taken = append(taken, part.String())
	}
	if part, err := firstFree(cidr, 24, taken); err == nil {
		t.Errorf("a full range gave %s, want an error", part)
	}
	taken[7] = ""
	if part, err := firstFree(cidr, 24, taken); err != nil || part.String() != "10.42.7.0/24" {
		t.Errorf("the range of a deleted node: got %s, %v, want 10.42.7.0/24", part, err)
	}
}

func TestFirstFreeAvoidsRangesOfOtherSizes(t *testing.T) {
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
		got, err := firstFree(netip.MustParsePrefix(test.cidr), test.bits, test.taken)
		if err != nil || got.String() != test.want {
			t.Errorf("firstFree(%s, %d, %q) = %s, %v, want %s", test.cidr, test.bits, test.taken, got, err, test.want)
		}
	}
	last := netip.MustParsePrefix("255.255.255.0/24")
	if got, err := firstFree(last, 25, []string{"255.255.255.0/25", "255.255.255.128/25"}); err == nil {
		t.Errorf("past the last address: got %s, want an error", got)
	}
}
