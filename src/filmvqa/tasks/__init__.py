"""What an answer is: targets, loss, scores, report and record."""
