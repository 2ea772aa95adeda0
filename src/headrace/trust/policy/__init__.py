"""What operators permit: questions, and the policies that answer them."""
