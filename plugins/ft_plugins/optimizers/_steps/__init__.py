"""What steps: imported only when a run makes its optimizer."""
