package protect

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// undo is what has to be done to be back where we began, last thing first.
type undo struct {
	steps []undoStep
	// record brings the undo record back to what it was. It comes last, and
	// only if everything else went well: what is left is in the record.
	record func() error
	// draining counts the connections that the proxy has opened meanwhile, and
	// that a rollback has left what they need; 0: none.
	draining int
}

type undoStep struct {
	what string
	do   func(context.Context) error
}

func (u *undo) push(what string, do func(context.Context) error) {
	u.steps = append(u.steps, undoStep{what, do})
}

// rollback undoes everything, whatever becomes of ctx, and returns the error
// that caused it, or one that says exactly what is left.
func (u *undo) rollback(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx)
	var left []string
	for _, step := range slices.Backward(u.steps) {
		if err := step.do(ctx); err != nil {
			left = append(left, fmt.Sprintf("%s (%v)", step.what, err))
		}
	}
	if left == nil && u.record != nil {
		if err := u.record(); err != nil {
			left = append(left, err.Error())
		}
	}
	if left == nil && u.draining > 0 {
		return Errorf(CodeOf(cause), "they live on, and nothing else is left: run synproxyctl revert to wait for their end, or apply again",
			"%w; rolled back, but for what %s need that the proxy has opened meanwhile", cause, count(u.draining, "connection"))
	}
	if left == nil {
		return cause
	}
	return Errorf(Stuck, "mend what is named, then run synproxyctl revert: the undo record is kept",
		"%w; and the rollback failed too, left are: %s", cause, strings.Join(left, "; "))
}
