package lab

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Status prints the hosts and what runs on them.
func (l *Lab) Status(out io.Writer) error {
	if !l.Subnet.IsValid() {
		fmt.Fprintf(out, "There is no lab in %s.\n", l.Dir)
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tROLE\tADDRESS\tMUSTER\tPROCESSES\tCONTAINERS\tNAMESPACE\tLOG")
	for _, h := range l.Hosts {
		state := "stopped"
		if pid, running := h.Running(); running {
			state = fmt.Sprintf("pid %d", pid)
		}
		processes, err := h.processes()
		if err != nil {
			return err
		}
		containers, err := h.Containers()
		if err != nil {
			return err
		}
		// Each pod has one container of its own, the sandbox.
		containers = slices.DeleteFunc(containers, func(c Container) bool { return c.Name == "" })
		log := h.Log()
		if shorter, err := filepath.Rel(filepath.Dir(l.Dir), log); err == nil {
			log = shorter
		}
		fmt.Fprintf(w, "%s\t%s\t%v\t%s\t%d\t%d\t%s\t%s\n",
			h.Name, h.Role, h.Address(), state, len(processes), len(containers), filepath.Base(l.netnsFile(h.Name)), log)
	}
	return w.Flush()
}
