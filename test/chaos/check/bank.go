package check

import (
	"fmt"
	"strconv"
	"strings"
)

// Balance makes the value of an account: unique, as every value is.
func Balance(amount int, unique string) string { return fmt.Sprintf("%d:%s", amount, unique) }

// ParseBalance reads an account's value.
func ParseBalance(value string) (int, error) {
	amount, _, ok := strings.Cut(value, ":")
	if !ok {
		return 0, fmt.Errorf("account %q: want AMOUNT:UNIQUE", value)
	}
	return strconv.Atoi(amount)
}

// CheckBank holds every list of the accounts of one bank, whose prefix begins
// with prefix, against their sum, which transfers leave as it is: a list that
// shows half a transfer has another.
func CheckBank(history []*Op, prefix string, accounts, sum int) []Violation {
	var r report
	for _, op := range history {
		if op.Outcome != OK || !strings.HasPrefix(op.List, prefix) || len(op.Items) == 0 {
			continue // empty: before the accounts were opened, all at once
		}
		got := 0
		for _, item := range op.Items {
			amount, err := ParseBalance(item.Value)
			if err != nil {
				r.add(Conserved, "%v: %v", err, op)
			}
			got += amount
		}
		if got != sum || len(op.Items) != accounts {
			r.add(Conserved, "%d accounts with %d in all, want %d with %d: %v", len(op.Items), got, accounts, sum, op)
		}
	}
	return r.result()
}
