def main(request):
    return request.body
